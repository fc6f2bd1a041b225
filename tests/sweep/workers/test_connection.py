"""Machines of a cluster come and go: a second raylet on this one stands for another machine."""

from __future__ import annotations

import inspect
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
import ray
from ray.cluster_utils import Cluster

from sweep.driver.loop import run
from sweep.errors import ClusterError
from sweep.study.budget import Budget
from sweep.workers import connection
from sweep.workers import runner as ray_workers
from sweep.workers.connection import gpu_places
from sweep.workers.devices import places_on
from sweep.workers.runner import RayRunner
from tests.recording import Recording
from trials.config import EvalPoint, TrialConfig

MakeConfig = Callable[..., TrialConfig]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr(ray_workers, "is_joined", lambda: True)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_gpus": 1, "num_cpus": 1, "include_dashboard": False},
    )
    ray.init(cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.long
def test_a_machine_that_joins_gets_trials_and_one_that_dies_costs_its_own_alone(
    cluster: Cluster, config: MakeConfig
) -> None:
    said: list[str] = []
    node = None
    removed: set[int] = set()

    def join_then_leave(number: int, point: EvalPoint) -> None:
        nonlocal node
        if node is None:
            node = cluster.add_node(num_gpus=1, num_cpus=1)
        elif number in sweep.on_second() and not removed:
            removed.add(number)
            cluster.remove_node(node, allow_graceful=False)

    class Placed(Recording):
        def on_second(self) -> set[int]:
            running = self.running_together()[-1]
            return running if len(running) == 2 else set()

    sweep = Placed([config(number, epochs=24) for number in range(6)], join_then_leave)
    runner = RayRunner(config().model, n_slots=lambda: gpu_places(1), on_gpus=True, say=said.append)
    run(sweep, runner, Budget(None, None))
    fewer, deadline = "The cluster now has 1 slot for trials, before 2.", time.monotonic() + 60
    while fewer not in said and time.monotonic() < deadline:  # Ray takes its time to be certain
        list(runner.wait(until=lambda: fewer in said or time.monotonic() > deadline))
    runner.shutdown()
    assert max(map(len, sweep.running_together())) == 2
    lost = [n for n, result in sweep.results.items() if result.fault is not None]
    assert len(lost) == 1
    assert sweep.results[lost[0]].fault == "machine_lost"
    assert sum(result.outcome == "completed" for result in sweep.results.values()) == 5
    assert said[0] == "The cluster now has 2 slots for trials, before 1."
    assert fewer in said


def test_two_trials_share_a_device(cluster: Cluster, config: MakeConfig) -> None:
    sweep = Recording([config(number, epochs=8) for number in range(4)])
    runner = RayRunner(
        config().model, n_slots=lambda: gpu_places(0.5), on_gpus=True, gpus_per_trial=0.5
    )
    run(sweep, runner, Budget(None, None))
    runner.shutdown()
    assert max(map(len, sweep.running_together())) == 2
    assert {place.device for place in sweep.places.values()} == {"GPU 0"}


@pytest.mark.parametrize(
    ("n_gpus", "per_trial", "n_places"),
    [(8, 1, 8), (8, 3, 2), (2, 4, 0), (2, 0.5, 4), (3, 0.1, 30), (2, 0.4, 4), (0, 0.5, 0)],
)
def test_places_on_a_machine(n_gpus: int, per_trial: float, n_places: int) -> None:
    assert places_on(n_gpus, per_trial) == n_places


def test_a_cluster_that_does_not_answer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "ANSWERS_WITHIN_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ClusterError, match=f"is '{address}': no cluster answers within 0.5 s"):
            connection.connect(n_cpu_workers=1)


def test_a_ray_that_does_not_start_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a node is not there within 30 s, Ray raises no kind of error but Exception itself."""

    def late(**_: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because")

    monkeypatch.setattr(ray, "init", late)
    with pytest.raises(ClusterError, match=r"timed out during startup.* give the same command"):
        connection.connect(n_cpu_workers=1)
    connection.disconnect()


@pytest.mark.parametrize("address", ["nowhere", "ray://head:10001", "module://[x]", "head:port"])
def test_an_address_that_is_none_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    words = f"such as head:6379, but is '{address}': Invalid address"
    with pytest.raises(ClusterError, match=re.escape(words)):
        connection.connect(n_cpu_workers=1)


def test_a_cluster_that_answers_is_not(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    connection.check_address()


def test_ray_still_calls_what_is_replaced() -> None:
    prints = inspect.getsource(ray._private.worker.listen_error_messages)
    assert " print_to_stdstream(" in prints
    assert " ray._private.utils.set_sigterm_handler(" in inspect.getsource(ray.init)
    assert " ConsolePopen(" in inspect.getsource(ray._private.services.start_ray_process)


HIT = """
import os, signal
from sweep.workers import connection
from sweep.workers.signals import heard_by
import ray
heard = []
connection.connect(n_cpu_workers=1)
with heard_by(lambda number, _: heard.append(number)):
    os.killpg(0, signal.{name})
    print(ray.get(ray.remote(lambda: "Ray lives").remote(), timeout=30), *map(int, heard))
    connection.disconnect()
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_to_the_group_of_a_command_does_not_reach_ray(name: str) -> None:
    command = [sys.executable, "-c", HIT.format(name=name)]
    done = subprocess.run(command, capture_output=True, start_new_session=True, check=False)
    assert done.stdout.decode() == f"Ray lives {int(getattr(signal, name))}\n", done.stderr.decode()


HIT_ALL = """
import psutil, signal
from sweep.workers import connection
from sweep.workers.signals import ENDING
import ray

@ray.remote
def child():  # as a worker's peers are
    import subprocess, time
    started = subprocess.Popen(["sleep", "60"])
    time.sleep(3)
    ended = started.poll()
    started.kill()
    return ended

connection.connect(n_cpu_workers=1)
ended = child.remote()
while "sleep" not in [p.name() for p in psutil.Process().children(recursive=True)]:
    pass
started = psutil.Process().children(recursive=True)
for process in started:
    for number in ENDING:
        process.send_signal(number)
print(ray.get(ended, timeout=30))
connection.disconnect()
print(psutil.wait_procs(started, timeout=3)[1])
"""


def test_signals_to_every_process_as_of_systemd_reach_none_of_ray() -> None:
    done = subprocess.run([sys.executable, "-c", HIT_ALL], capture_output=True, check=False)
    assert done.stdout.decode() == "None\n[]\n", done.stderr.decode()


KILLED = """
import psutil, time
from sweep.errors import SweepFailed
from sweep.workers import connection
connection.connect(n_cpu_workers=1)
connection.check_alive()
raylet = next(p for p in psutil.Process().children() if p.name() == "raylet")
raylet.kill()
try:
    for _ in range(60):
        connection.check_alive()
        time.sleep(0.5)
except SweepFailed as error:
    print(error)
"""


def test_a_ray_of_our_own_whose_raylet_was_killed_is_told() -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, check=False)
    assert done.stdout.decode().startswith("Ray's own process (raylet) was killed"), done.stderr


TERMINATED = """
import os, signal, sys, threading
signal.signal(signal.SIGTERM, signal.default_int_handler)
from sweep.workers import connection
import ray
inner = ray._private.worker.connect
def connect(*positional, **named):
    threading.Timer(0.03, os.kill, (os.getpid(), signal.SIGTERM)).start()
    return inner(*positional, **named)
ray._private.worker.connect = connect
try:
    connection.connect(n_cpu_workers=1)
except KeyboardInterrupt:
    connection.disconnect()
    sys.exit(130)
"""


def test_a_sigterm_while_ray_connects_ends_in_order() -> None:
    done = subprocess.run([sys.executable, "-c", TERMINATED], capture_output=True, check=False)
    assert done.returncode == 130, done.stderr.decode()


def test_slices_of_a_gpu_are_counted_by_their_names() -> None:
    code = (
        "from sweep.workers import connection as ray\n"
        "print(ray.connect(n_cpu_workers=None)); ray.disconnect()"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "MIG-1,MIG-2,MIG-3"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.splitlines()[-1] == "3"


LEAVES = """
import os, signal, sys, threading
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append("SIGTERM"))
from sweep.workers import connection
import ray
connection.connect(n_cpu_workers=1)
inner = ray.shutdown
def shutdown():
    inner()
    os.kill(os.getpid(), signal.SIGTERM)
ray.shutdown = shutdown
connection.disconnect()
print(*heard)
"""


def test_a_sigterm_while_ray_ends_does_not_kill() -> None:
    done = subprocess.run([sys.executable, "-c", LEAVES], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"SIGTERM\n"), done.stderr.decode()
