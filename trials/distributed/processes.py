"""A trial on several GPUs: one process on each, which share every effective batch.

`python -m trials.distributed.processes` is what each process runs but the first, the
worker's.
"""

import contextlib
import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from trials.config import ModelConfig
from trials.distributed.group import T
from trials.faults import KILLED
from trials.parent import module_command, module_environment
from trials.unfinished import scratch_dir

FOR_EVER = timedelta(days=365)
"""Between two trials the others wait as long as it takes; whoever dies ends them all."""
GRACE_SECONDS = 10
"""For a trial to hear of a peer's end and to tell of it, before its process ends too."""
_RAISED = re.compile(r"^(?:\[rank\d+\]: )?([\w.]+(?:Error|Exception|Clean)\b.*)", re.MULTILINE)
"""The last line of a traceback, as torch.distributed prints it."""


class PeerDied(RuntimeError):
    """Another process of the trial has ended; says why."""


class Processes:
    """Processes joined by torch.distributed: NCCL between GPUs, gloo between processors.

    Args:
        why: Waits for a peer's end and tells its cause.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        store: Any,
        why: Callable[[], str] = lambda: "the first process ended",
    ) -> None:
        self.rank, self.size = rank, size
        self._why = why
        self._device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if self._device.type == "cuda" else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=FOR_EVER,
        )
        # NCCL takes its own memory at the first sum: before training fills torch's cache.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self.sum(torch.zeros(1, device=self._device))

    def sum(self, tensor: torch.Tensor) -> None:
        with self._peers_alive():
            torch.distributed.all_reduce(tensor)

    def smallest(self, number: float) -> float:
        found = torch.tensor(number, dtype=torch.float64)
        with self._peers_alive():
            torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MIN)
        return float(found)

    def broadcast(self, value: T) -> T:
        values = [value]
        with self._peers_alive():
            torch.distributed.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def gather(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.size
        with self._peers_alive():
            torch.distributed.all_gather_object(values, value)
        return values

    @contextlib.contextmanager
    def _peers_alive(self) -> Iterator[None]:
        """Name the cause where gloo says only that a connection was closed."""
        try:
            yield
        except RuntimeError as error:
            raise PeerDied(self._why()) from error


class Peers:
    """The other processes of a worker's trials; they load the same base model and end with it.

    Args:
        n_processes: Of a trial, the worker's own included.
    """

    def __init__(self, model: ModelConfig, n_processes: int) -> None:
        # Before torch.distributed is asked for anything: what is started here listens here only.
        stay_on_this_machine()
        self._size = n_processes
        self._store = TCPStore("127.0.0.1", 0, n_processes, is_master=True, wait_for_workers=False)
        self._log_dir = scratch_dir()
        self._causes: queue.Queue[str] = queue.Queue()
        for rank in range(1, n_processes):
            log_path = Path(self._log_dir.name) / f"{rank}.txt"
            peer = self._start(model, rank, log_path)
            watch = threading.Thread(target=self._end_with, args=(peer, log_path), daemon=True)
            watch.start()

    def _start(self, model: ModelConfig, rank: int, log_path: Path) -> subprocess.Popen[str]:
        spec = {"model": asdict(model), "rank": rank, "size": self._size, "port": self._store.port}
        environment = module_environment()
        if devices := [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]:
            environment["CUDA_VISIBLE_DEVICES"] = devices[rank]
        with log_path.open("w") as log:
            peer = subprocess.Popen(
                module_command("trials.peer"),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                text=True,
            )
        assert peer.stdin is not None
        peer.stdin.write(json.dumps(spec) + "\n")
        peer.stdin.flush()  # and kept open: its end is ours
        return peer

    def join(self) -> Processes:
        """Wait until all are there. Load the base model first: they do so meanwhile."""
        return Processes(0, self._size, self._store, why=self._causes.get)

    def _end_with(self, peer: subprocess.Popen[str], log_path: Path) -> None:
        """End this process soon after a peer: between GPUs a trial may wait for it for ever."""
        code = peer.wait()
        log = log_path.read_text(errors="replace")
        raised = _RAISED.findall(log)
        ended = "a process of this trial ended with exit code"
        cause = f"{KILLED} {-code}" if code < 0 else ": ".join([f"{ended} {code}", *raised[-1:]])
        print("\n".join([*log.splitlines()[-20:], cause]), file=sys.stderr, flush=True)
        self._causes.put(cause)
        time.sleep(GRACE_SECONDS)
        os._exit(1)


def stay_on_this_machine() -> None:
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, "lo")
