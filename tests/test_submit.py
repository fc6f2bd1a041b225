"""`sweep submit` and its kin as a user types them, on a Ray cluster of one machine with a token."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from sweep.cluster.check import check
from sweep.cluster.follow import Follower
from sweep.cluster.jobs import Cluster, Job
from sweep.cluster.package import pack_program
from sweep.errors import ClusterError
from tests import tiny

pytestmark = pytest.mark.filterwarnings(
    # SQLAlchemy 2.1 warns of a loader that MLflow 3.17 uses in its own tables.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)

TOKEN = "let-me-in"
SPACE = """\
base_model: base
data: {train: train.jsonl, eval: eval.jsonl, max_length: 64}
search:
  rank: [4, 8]
  learning_rate: {min: 1e-4, max: 1e-3, log: true}
  effective_batch_size: [8]
  epochs: [240]  # so that it still runs when it is stopped
evaluate: {times: 4}
budget: {trials: 2}
checkpoint_minutes: 0.001
"""


@dataclass
class Head:
    """A Ray cluster of one machine."""

    address: str
    home: Path

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


def free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(n)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    ports = free_ports(5)
    # Sockets of Ray lie in its folder, and their paths may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        home = Path(folder) / "home"
        home.mkdir()
        names = ("port", "dashboard-port", "ray-client-server-port",
                 "dashboard-agent-listen-port", "dashboard-agent-grpc-port")  # fmt: skip
        flags = [f"--{name}={port}" for name, port in zip(names, ports, strict=True)]
        command = [*(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block"),
                   *("--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"),
                   *("--include-dashboard=true", "--num-cpus=3", "--num-gpus=0"),
                   *("--object-store-memory=100000000", "--disable-usage-stats"),
                   f"--temp-dir={folder}/ray", *flags]  # fmt: skip
        started = subprocess.Popen(
            command,
            cwd=folder,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "HOME": str(home),
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": TOKEN,
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        found = Head(f"http://127.0.0.1:{ports[1]}", home)
        try:
            _wait_until_up(found, started)
            yield found
        finally:
            _end(started, Path(folder))


def _wait_until_up(head: Head, started: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert started.poll() is None
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", head.port), 1).close()
            return
        time.sleep(0.2)
    raise AssertionError("Ray's dashboard did not come up")


def _end(started: subprocess.Popen[bytes], folder: Path) -> None:
    """End the cluster, and whatever has been started on it."""
    started.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        started.wait(timeout=20)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            is_ours = (
                str(folder) in " ".join(process.cmdline()) or os.getsid(process.pid) == started.pid
            )
            if is_ours:
                process.kill()


@pytest.fixture
def cluster(head: Head, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    _read_variables_again()
    yield Cluster(head.address)
    monkeypatch.undo()
    _read_variables_again()


def _read_variables_again() -> None:
    """Ray reads mode and token once a process, and this one has had a Ray of its own perhaps."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    folder = tmp_path / "program"
    folder.mkdir()
    pack_program(folder)
    return folder


def sweep(*words: str, folder: Path, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "HOME": str(folder)}
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS"):
        env.pop(name, None)
    if token is not None:
        env["RAY_AUTH_TOKEN"] = token
    return subprocess.run(
        [sys.executable, "-m", "sweep", *words],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def write_space(folder: Path, base: Path) -> None:
    tiny.write_rows(folder / "train.jsonl", 48, seed=2)
    tiny.write_rows(folder / "eval.jsonl", 32, seed=3)
    (folder / "base").symlink_to(base)
    (folder / "tiny.yaml").write_text(SPACE)


def test_a_sweep_is_submitted_stopped_continued_and_fetched(
    head: Head, cluster: Cluster, tiny_base: Path, tmp_path: Path
) -> None:
    write_space(tmp_path, tiny_base)
    at = ("--address", head.address)
    submitted = sweep("submit", "tiny.yaml", "--workers", "2", "--no-check", *at, folder=tmp_path)
    assert submitted.returncode == 0, submitted.stderr
    assert "Submitted as sweep-tiny-1." in submitted.stdout

    job = cluster.find("tiny")
    _wait_for_output(cluster, job, "trial 000")
    again = sweep("submit", "tiny.yaml", "--workers", "2", *at, folder=tmp_path)
    assert again.returncode == 2
    assert "tiny: this sweep is already running, as job sweep-tiny-1." in again.stderr
    pruned = sweep("prune", "tiny", "77", *at, folder=tmp_path)
    assert pruned.returncode == 2
    assert "tiny: no trial 77; its trials are 0 to " in pruned.stderr
    stopped = sweep("stop", "tiny", *at, folder=tmp_path)
    assert stopped.returncode == 0, stopped.stderr
    assert cluster.look(job).exit_code == 130

    # The files that travel differ now, so they lie in another folder there.
    (tmp_path / "tiny.yaml").write_text(SPACE.replace("epochs: [240]", "epochs: [4, 240]"))
    options = ("--workers", "2", "--no-check", "--follow", "--wait")
    done = sweep("submit", "tiny.yaml", *options, *at, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Resuming tiny: " in done.stdout
    fetched = tmp_path / "fetched" / "tiny"
    assert (fetched / "best" / "adapter" / "adapter_model.safetensors").is_file()
    assert "winner" in (fetched / "output.txt").read_text()
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{fetched}/study.db")
    # First trials that the budget left out wait in the study, and stay there.
    begun = [trial.state for trial in study.trials if trial.state is not TrialState.WAITING]
    assert begun == [TrialState.COMPLETE] * 2
    where = json.loads((fetched / "mlflow.json").read_text())
    assert where["uri"] == f"sqlite:///{fetched}/mlflow.db"
    runs = MlflowClient(where["uri"]).search_runs([where["experiment_id"]])
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    assert json.loads((fetched / "status.json").read_text())["name"] == "tiny"
    assert list((head.home.parent / "ray").glob("session_*/logs/sweep-*")) == []
    assert {job.sweep for job in cluster.jobs()} == {"tiny"}


def _wait_for_output(cluster: Cluster, job: Job, words: str) -> None:
    deadline = time.monotonic() + 180
    while words not in (text := cluster.client.get_job_logs(job.id)):
        assert not cluster.look(job).is_over, text
        assert time.monotonic() < deadline, text
        time.sleep(0.3)


def test_all_that_a_cluster_lacks_is_said_at_once_and_nothing_is_started(
    head: Head, cluster: Cluster, tiny_base: Path, tmp_path: Path
) -> None:
    write_space(tmp_path, tiny_base)
    words = (
        "--mlflow",
        "http://127.0.0.1:9",
        "--set",
        "base_model=file:///shared/none",
        "--name",
        "lacking",
    )
    refused = sweep("submit", "tiny.yaml", *words, "--address", head.address, folder=tmp_path)
    assert refused.returncode == 2
    assert "3 problems; nothing started" in refused.stderr
    assert "The cluster has no GPU." in refused.stderr
    assert "base_model: /shared/none must be a model's folder on every machine," in refused.stderr
    assert "lacking" not in {job.sweep for job in cluster.jobs()}
    assert not (head.home / "sweeps" / "lacking").exists()


@pytest.mark.parametrize(
    ("token", "words"), [(None, "asks for Ray's token"), ("guess", "does not take this token")]
)
def test_a_token_is_asked_for_in_words(
    head: Head, tmp_path: Path, token: str | None, words: str
) -> None:
    refused = sweep("attach", "x", "--address", head.address, folder=tmp_path, token=token)
    assert refused.returncode == 2
    assert words in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_job_that_is_not_there_is_said(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match="sweep-none-1: no such job at http://127"):
        cluster.find("sweep-none-1")


def test_the_address_given_comes_before_rays_variables(
    head: Head, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert Cluster(head.address).client.get_address() == head.address
    assert os.environ["RAY_ADDRESS"] == "127.0.0.1:1"


class Cable:
    """A connection to the dashboard that can be pulled out and put back in."""

    def __init__(self, to_port: int) -> None:
        [self.port] = free_ports(1)
        self._to_port = to_port
        self._sockets: list[socket.socket] = []
        self._listener: socket.socket | None = None

    def plug_in(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def pull_out(self) -> None:
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._sockets.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to_port))
                self._sockets += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=pair, daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


COUNTING = "import time\nfor n in range(40):\n    print('line', n, flush=True); time.sleep(0.1)\n"


@pytest.mark.long
def test_output_is_shown_once_although_the_connection_breaks(
    head: Head, cluster: Cluster, program: Path
) -> None:
    cable = Cable(head.port)
    cable.plug_in()
    through_cable = Cluster(f"http://127.0.0.1:{cable.port}")
    (program / "counting.py").write_text(COUNTING)
    cluster.client.submit_job(
        entrypoint="python counting.py",
        submission_id="sweep-counting-1",
        runtime_env={"working_dir": str(program)},
        metadata={"sweep": "counting"},
    )
    shown: list[str] = []
    said: list[str] = []

    def write(text: str) -> None:
        shown.append(text)
        if "line 5\n" in text and not said:
            cable.pull_out()
            threading.Timer(2.0, cable.plug_in).start()

    job = Follower(through_cable, write, said.append).follow(through_cable.find("counting"))
    cable.pull_out()
    assert job.exit_code == 0
    lines = [line for line in "".join(shown).splitlines() if line.startswith("line ")]
    assert lines == [f"line {n}" for n in range(40)]
    assert [words.partition(" is ")[2][:4] for words in said] == ["unre", "back"]
    cluster.client.delete_job(job.id)


def test_a_small_job_that_fails_is_said(cluster: Cluster, program: Path) -> None:
    with pytest.raises(ClusterError, match="(?s)a small job .* failed:.*No module named nope"):
        cluster.ask(["python", "-m", "nope"], "~/sweeps", program)


def test_a_cluster_that_fits_is_described(cluster: Cluster, program: Path, tiny_base: Path) -> None:
    said: list[str] = []
    request: dict[str, Any] = {
        "model": str(tiny_base),
        "revision": None,
        "gpus_per_trial": 1,
        "gpus": None,
        "workers": 3,
        "servers": {},
    }
    check(cluster, request, program, "~/sweeps", said.append)
    assert said[0].startswith("Needs 3 CPUs, ")
    assert f"Python {sys.version.split()[0]}, ray 2." in said[1]
