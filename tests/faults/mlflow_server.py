"""A real MLflow server that can be taken away and brought back."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil


class MlflowServer:
    """`mlflow server` on a port of this machine; it passes artifacts on to their place.

    Args:
        folder: A new one, for what has no other place.
        database: The address of its database; None: a file in the folder.
        artifacts: Where it keeps artifacts; None: in the folder.
        more: Further words of its command.
        environment: What its environment has beside ours.
    """

    def __init__(
        self,
        folder: Path,
        *,
        database: str | None = None,
        artifacts: str | None = None,
        more: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self.database = folder / "server.db" if database is None else None
        """The file, if it is one."""
        self._words = ["--backend-store-uri", database or f"sqlite:///{self.database}"]
        self._words += ["--artifacts-destination", artifacts or str(folder / "artifacts"), *more]
        self._environment = dict(environment or {})
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port: int = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = 90) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server"]
        command += [*self._words, "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(self._port)]
        with (self._folder / "server.txt").open("a") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                    "MLFLOW_DISABLE_TELEMETRY": "true",
                    **self._environment,
                },
                start_new_session=True,
            )
        deadline = time.monotonic() + seconds
        while not self._answers():
            assert self._process.poll() is None, f"see {self._folder}/server.txt"
            assert time.monotonic() < deadline, f"{self.address} does not answer"
            time.sleep(0.2)

    def kill(self) -> None:
        """Kill it and all its processes, in the middle of whatever they do."""
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        for process in [server, *server.children(recursive=True)]:
            process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
