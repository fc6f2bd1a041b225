"""Real servers for the benchmark: PostgreSQL, and MLflow on it, on ports of this machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Run PostgreSQL with its own settings (durable commits); give the address of its server.

    PostgreSQL refuses to run as root, and runs as the user postgres then.
    """
    folder.mkdir()
    as_user = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data, port = folder / "data", _free_port()
    initdb = [*as_user, "initdb", "-D", str(data), "-U", "sweep", "-A", "trust", "-E", "UTF8"]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd=folder)
    command = [*as_user, "postgres", "-D", str(data), "-p", str(port)]
    command += ["-c", "listen_addresses=127.0.0.1", "-k", str(folder)]
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        _wait(lambda: "ready to accept" in (folder / "log.txt").read_text(), server)
        for name in ("study", "mlflow"):
            create = ["createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "sweep", name]
            subprocess.run(create, check=True)
        yield f"postgresql+psycopg://sweep@127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGINT)  # does not wait for those that are connected
        server.wait()


class MlflowOnPostgresql:
    """`mlflow server`: its address, and how many requests it has answered."""

    def __init__(self, folder: Path, address: str, log: Path) -> None:
        self.folder, self.address, self._log = folder, address, log

    def n_requests(self) -> int:
        """Since it began."""
        return self._log.read_text(errors="replace").count(' HTTP/1.1" ')


@contextmanager
def mlflow_server(folder: Path, database: str, n_workers: int) -> Iterator[MlflowOnPostgresql]:
    """Run an MLflow server on a database; artifacts go through it into a folder."""
    folder.mkdir()
    port, log_path = _free_port(), folder / "log.txt"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--workers", str(n_workers)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with log_path.open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **quiet})
    try:
        _wait(lambda: _answers(port), server)
        yield MlflowOnPostgresql(folder, f"http://127.0.0.1:{port}", log_path)
    finally:
        server.terminate()
        server.wait()


def _wait(is_ready: object, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 180
    while not is_ready():  # type: ignore[operator]
        assert server.poll() is None, "the server has ended; see its log"
        assert time.monotonic() < deadline, "the server does not answer"
        time.sleep(0.2)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
