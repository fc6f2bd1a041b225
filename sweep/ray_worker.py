"""The process behind a slot, on whatever machine of the cluster Ray has put it."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import ray

from sweep.devices import places_on
from sweep.ray_cluster import here, nodes
from sweep.ray_files import Seen, scratch_dir
from sweep.resolve import training_environment
from trials import worker as messages
from trials.config import ModelConfig, Stop, TrialConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What of a machine a worker may have."""

    n_workers: int
    """Of the whole sweep; on a cluster with GPUs these decide instead."""
    on_gpus: bool
    gpus_per_trial: float
    is_joined: bool
    """Whether the machine is one of a cluster."""

    @property
    def n_processes(self) -> int:
        """That train a trial together."""
        return max(1, int(self.gpus_per_trial))

    @property
    def of_a_gpu(self) -> float:
        """How much of its memory a trial may take, from 0 to 1."""
        return min(1.0, self.gpus_per_trial)

    def n_on_this_machine(self) -> int:
        """Workers that share the processors of this one."""
        if not self.is_joined:
            return self.n_workers
        if self.on_gpus:
            return max(1, places_on(here().n_gpus, self.gpus_per_trial))
        return -(-self.n_workers // len(nodes()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Home:
    """Where a worker's process is."""

    node: str
    """The host's name."""
    node_id: str
    """Ray's; two machines may have one name."""
    gpus: list[str]
    """The ids that Ray gave to it."""
    gpu_type: str | None
    pid: int
    sees_folder: bool
    """Whether it can read the sweep's folder: it is on the driver's machine, or shared."""
    scratch: Path
    """Where its trials' files go if it cannot."""


class Worker:
    """An actor that holds the base model and runs one trial at a time."""

    def __init__(self, model: ModelConfig, share: Share, seen: Seen | None) -> None:
        # Before torch is imported, which reads them once.
        os.environ.update(
            training_environment(n_slots=share.n_on_this_machine(), n_processes=share.n_processes)
        )
        self._seen = seen
        self._trials = messages.TrialThread(model, share.n_processes, share.of_a_gpu)

    def home(self) -> Home:
        """Where this process is."""
        node = here()
        return Home(
            node=socket.gethostname(),
            node_id=node.node_id,
            gpus=[str(i) for i in ray.get_gpu_ids()],
            gpu_type=node.gpu_type,
            pid=os.getpid(),
            sees_folder=self._seen is None or self._seen.is_from_here(),
            scratch=scratch_dir(self._seen, node.node_id) if self._seen else Path(),
        )

    def stop(self) -> None:
        """Ask the running trial to be set aside."""
        self._trials.stop()

    def start(self, number: int, config: TrialConfig, laid: None) -> None:
        """Begin a trial, as soon as the base model is there.

        Args:
            laid: The answer of whoever has brought the trial's files.
        """
        self._trials.start(number, config)

    def next_event(self) -> messages.Event:
        """Wait for the next thing that happens."""
        return self._trials.events.get()

    def answer(self, verdict: Stop | None) -> None:
        """Give the verdict that the running trial waits for."""
        self._trials.answer(verdict)
