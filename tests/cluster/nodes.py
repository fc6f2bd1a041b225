"""A cluster of Ray on machines of its own: a head and workers, each with two GPUs in name.

No file system is shared but for what all read: the programs, and folders that are named, such as a
base model's. What a node writes, only that node can read.
"""

from __future__ import annotations

import json
import secrets
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.cluster.machines import Machine, Network

GPUS = 2
CPUS = 2
OBJECT_STORE_BYTES = 80 * 2**20
"""Ray's least is 75 MB."""
PORT = 6379
DASHBOARD_PORT = 8265
UP_WITHIN_SECONDS = 240.0
"""Ray starts in 10 s on an idle machine of two cores."""

FRUGAL = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_worker_niceness": "0",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}


class Cluster:
    """A running cluster. Ends with its context, or with the process that made it.

    Args:
        n_workers: Nodes beside the head.
        shared: Folders that all nodes can read.
        disk: A folder that the head alone can read, and write.
    """

    def __init__(
        self, n_workers: int = 2, *, shared: Sequence[Path] = (), disk: Path | None = None
    ) -> None:
        self._logs = tempfile.TemporaryDirectory(prefix="sweep-cluster-")
        self.logs = Path(self._logs.name)
        token = secrets.token_hex(16)
        self.access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        """What the environment of a client must hold."""
        self._network = Network(shared)
        try:
            self.head = self._start_head(disk)
            self.workers = [self._start_worker() for _ in range(n_workers)]
            for worker in self.workers:
                self.wait_for(worker)
        except BaseException:
            self.close()
            raise

    @property
    def dashboard(self) -> str:
        """Where jobs are submitted, from outside."""
        return f"http://{self.head.address}:{DASHBOARD_PORT}"

    @property
    def address(self) -> str:
        """What programs on its nodes connect to."""
        return f"{self.head.address}:{PORT}"

    @property
    def environment(self) -> dict[str, str]:
        """What a program on one of its nodes needs beside its own environment."""
        return {**FRUGAL, **self.access, "RAY_ADDRESS": self.address}

    def _start_head(self, disk: Path | None) -> Machine:
        machine = self._network.add("head", disk=disk)
        self._start_ray(
            machine,
            *("--head", f"--port={PORT}", "--include-dashboard=true"),
            *("--dashboard-host=0.0.0.0", f"--dashboard-port={DASHBOARD_PORT}"),
        )
        self.head = machine
        self.wait_for(machine)
        return machine

    def _start_worker(self) -> Machine:
        machine = self._network.add(f"node-{len(self._network.machines)}")
        self._start_ray(machine, f"--address={self.address}")
        return machine

    def _start_ray(self, machine: Machine, *words: str) -> None:
        machine.start(
            # As whoever runs a cluster has it: where Ray ends, it is started again.
            *("bash", "-c", 'while true; do "$@"; sleep 1; done', "again"),
            *("ray", "start", "--block", f"--node-ip-address={machine.address}"),
            *(f"--num-cpus={CPUS}", f"--num-gpus={GPUS}", "--disable-usage-stats"),
            *(f"--object-store-memory={OBJECT_STORE_BYTES}", "--include-log-monitor=false"),
            *words,
            environment={**FRUGAL, **self.access},
            log=self.logs / f"{machine.name}.txt",
        )

    def kill(self, worker: Machine) -> None:
        """End a node with all its processes and files; it does not come back."""
        worker.kill()
        self.workers.remove(worker)

    def join(self) -> Machine:
        """Add a node and wait until it is there."""
        worker = self._start_worker()
        self.workers.append(worker)
        self.wait_for(worker)
        return worker

    def alive(self) -> list[str]:
        """Addresses of the nodes that the head believes to be alive.

        Raises:
            OSError: The head does not answer.
        """
        return [node["node_ip"] for node in self._nodes() if node["state"] == "ALIVE"]

    def _nodes(self) -> list[dict[str, Any]]:
        request = urllib.request.Request(
            f"{self.dashboard}/api/v0/nodes",
            headers={"Authorization": f"Bearer {self.access['RAY_AUTH_TOKEN']}"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            nodes: list[dict[str, Any]] = json.load(answer)["data"]["result"]["result"]
        return nodes

    def wait_for(self, machine: Machine) -> None:
        """Wait until a machine is a node of the cluster."""
        deadline = time.monotonic() + UP_WITHIN_SECONDS
        while not self._is_there(machine):
            assert time.monotonic() < deadline, self._said(machine)
            time.sleep(0.5)

    def _is_there(self, machine: Machine) -> bool:
        try:
            return machine.address in self.alive()
        except OSError:
            return False

    def _said(self, machine: Machine) -> str:
        log = (self.logs / f"{machine.name}.txt").read_text(errors="replace")
        return f"{machine.name} is no node after {UP_WITHIN_SECONDS:.0f} s: {log[-2000:]}"

    def close(self) -> None:
        """End every process of the cluster."""
        self._network.close()
        self._logs.cleanup()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
