"""Placement on Ray: logical GPUs, warm workers, workers that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import ray

from sweep.clock import WorkClock
from sweep.driver.loop import run, take
from sweep.study.budget import Budget, Enough
from sweep.workers import connection
from sweep.workers.runner import RayRunner
from tests.recording import Recording
from trials.config import EvalPoint, TrialConfig

MakeConfig = Callable[..., TrialConfig]


@pytest.fixture
def four_gpus() -> Iterator[None]:
    """Ray believes in four GPUs, as it does in real ones: it sets CUDA_VISIBLE_DEVICES."""
    ray.init("local", num_gpus=4, num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def local_ray() -> Iterator[None]:
    connection.connect(n_cpu_workers=2)
    yield
    connection.disconnect()


def worker_processes() -> list[psutil.Process]:
    ours = psutil.Process().children(recursive=True)
    return [process for process in ours if "ray::Worker" in " ".join(process.cmdline())]


def test_four_trials_run_at_once_on_four_devices_and_never_two_on_one(
    four_gpus: None, config: MakeConfig
) -> None:
    sweep = Recording([config(number, epochs=4) for number in range(9)])
    runner = RayRunner(config().model, n_slots=lambda: 4, on_gpus=True)
    run(sweep, runner, Budget(None, None))
    runner.shutdown()
    together = sweep.running_together()
    assert max(map(len, together)) == 4
    for numbers in together:
        devices = [sweep.places[number].device for number in numbers]
        assert len(set(devices)) == len(devices)
    assert {place.device for place in sweep.places.values()} == {f"GPU {i}" for i in range(4)}
    # One base model for each worker, however many trials it ran.
    assert len(runner.timings.loads) == 4
    assert len(runner.timings.gaps) == 5


@pytest.mark.long  # four on one device each are in every run
def test_trials_on_two_devices_each_share_none_of_them(four_gpus: None, config: MakeConfig) -> None:
    configs = [config(n, epochs=4, gpus_per_trial=2, micro_batch_size=4) for n in range(3)]
    sweep = Recording(configs)
    runner = RayRunner(config().model, n_slots=lambda: 2, on_gpus=True, gpus_per_trial=2)
    run(sweep, runner, Budget(None, None))
    runner.shutdown()
    assert {result.outcome for result in sweep.results.values()} == {"completed"}
    assert max(map(len, sweep.running_together())) == 2
    assert {place.device for place in sweep.places.values()} == {"GPU 0,1", "GPU 2,3"}
    left = [p for p in psutil.process_iter(["cmdline"]) if is_peer_of_ours(p)]
    assert psutil.wait_procs(left, timeout=10)[1] == []


def is_peer_of_ours(process: psutil.Process) -> bool:
    return "trials.peer" in (process.info["cmdline"] or [])


def test_a_killed_worker_costs_its_trial_alone(local_ray: None, config: MakeConfig) -> None:
    killed: list[int] = []

    def kill_at_the_second_evaluation(number: int, point: EvalPoint) -> None:
        if number == 1 and point.index == 2 and not killed:
            killed.append(point.index)
            victim = next(
                process for process in worker_processes() if has_open(process, "trials/001/log.txt")
            )
            os.kill(victim.pid, signal.SIGKILL)

    sweep = Recording([config(number) for number in range(4)], kill_at_the_second_evaluation)
    runner = RayRunner(config().model, n_slots=lambda: 2, on_gpus=False)
    run(sweep, runner, Budget(None, None))
    runner.shutdown()
    assert killed
    outcomes = {number: result.outcome for number, result in sweep.results.items()}
    assert outcomes == {0: "completed", 1: "failed", 2: "completed", 3: "completed"}
    assert sweep.results[1].fault == "machine_lost"  # a study runs it again
    assert "worker process died" in sweep.results[1].reason
    assert '"index": 2' in sweep.results[1].reason  # the end of its log


@pytest.mark.long
def test_a_worker_that_does_not_answer_is_ended(local_ray: None, config: MakeConfig) -> None:
    stopped: list[int] = []

    def stop_it(number: int, point: EvalPoint) -> None:
        if not stopped:
            stopped.extend(p.pid for p in worker_processes() if has_open(p, "trials/000/log.txt"))
            os.kill(stopped[0], signal.SIGSTOP)

    sweep = Recording([config(0, stall_minutes=0.1), config(1)], stop_it)
    runner = RayRunner(config().model, n_slots=lambda: 1, on_gpus=False)
    run(sweep, runner, Budget(None, None))
    assert not psutil.pid_exists(stopped[0])
    runner.shutdown()
    assert sweep.results[0].fault == "machine_lost"
    assert "did not answer for 0.1 minutes" in sweep.results[0].reason
    assert sweep.results[1].outcome == "completed"


def test_a_stop_of_the_command_is_no_silence_of_its_workers(
    local_ray: None, config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = [0.0]
    clock = WorkClock(lambda: time.monotonic() + ahead[0])
    monkeypatch.setattr("sweep.workers.runner.WORK", clock)
    monkeypatch.setattr("sweep.workers.slots.WORK", clock)

    def an_hour_passes_while_an_answer_is_on_its_way(number: int, point: EvalPoint) -> None:
        if ahead[0] or point.index != 1:
            return
        (worker,) = [p for p in worker_processes() if has_open(p, "trials/000/log.txt")]
        worker.suspend()

        def awake() -> None:
            ahead[0] = 3600.0
            threading.Timer(1.0, worker.resume).start()

        threading.Timer(3.0, awake).start()

    sweep = Recording([config(0, stall_minutes=0.3)], an_hour_passes_while_an_answer_is_on_its_way)
    runner = RayRunner(config().model, n_slots=lambda: 1, on_gpus=False)
    stops: list[float] = []
    with clock.looked_at(stops.append):
        run(sweep, runner, Budget(None, None))
        runner.shutdown()
    assert sweep.results[0].outcome == "completed"
    assert len(stops) == 1 and stops[0] == pytest.approx(3600, abs=10)
    assert runner.usage.slot_seconds < 3600


def has_open(process: psutil.Process, name: str) -> bool:
    return any(name in file.path for file in process.open_files())


def test_trials_that_are_set_aside_leave_a_checkpoint(local_ray: None, config: MakeConfig) -> None:
    stop = threading.Event()
    sweep = Recording([config(0, epochs=200)], lambda *_: stop.set())
    runner = RayRunner(config().model, n_slots=lambda: 1, on_gpus=False)
    assert run(sweep, runner, Budget(None, None), stop.is_set) is Enough.STOPPED
    for event in runner.set_aside(until=lambda: False):
        take(sweep, event)
    runner.shutdown()
    assert (sweep.results[0].outcome, sweep.results[0].fault) == ("interrupted", None)
    assert (Path(config(0).output_dir) / "checkpoint.safetensors").exists()


def test_a_base_model_that_cannot_be_loaded_is_each_trials_cause(
    local_ray: None, config: MakeConfig, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    import dataclasses

    model = dataclasses.replace(config().model, name=str(tmp_path / "empty"))
    sweep = Recording([config(0)])
    runner = RayRunner(model, n_slots=lambda: 1, on_gpus=False)
    run(sweep, runner, Budget(None, None))
    runner.shutdown()
    assert "A worker cannot load the base model" in sweep.results[0].reason


LISTENS = """
import os, psutil
from sweep.workers import connection as ray_connection
ray_connection.connect(n_cpu_workers=1)
for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
    for connection in process.net_connections(kind="inet"):
        if connection.status == psutil.CONN_LISTEN:
            print(connection.laddr.ip.removeprefix("::ffff:"))
print(os.environ["RAY_AUTH_MODE"])
ray_connection.disconnect()
"""


def test_whatever_is_started_listens_on_this_machine_only_and_wants_a_token() -> None:
    done = subprocess.run(  # apart: Ray reads its settings once, when it is imported
        [sys.executable, "-c", LISTENS], capture_output=True, text=True, timeout=120, check=True
    )
    *addresses, authentication = done.stdout.split()
    assert len(addresses) >= 4 and set(addresses) == {"127.0.0.1"}
    assert authentication == "token"


def test_no_worker_process_is_left_after_the_shutdown(local_ray: None, config: MakeConfig) -> None:
    sweep = Recording([config(0)])
    runner = RayRunner(config().model, n_slots=lambda: 2, on_gpus=False)
    run(sweep, runner, Budget(None, None))
    before = worker_processes()
    runner.shutdown()
    gone, alive = psutil.wait_procs(before, timeout=10)
    assert len(gone) >= 1 and not alive
