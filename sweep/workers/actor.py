"""The process behind a slot, on whatever machine of the cluster Ray has put it."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import ray

from sweep.workers.connection import here, nodes
from sweep.workers.devices import places_on, training_environment
from sweep.workers.file_sync import FolderProbe, scratch_dir
from trials.config import ModelConfig, Stop, TrialConfig
from trials.messages import Event
from trials.worker import TrialThread

STEPS_HEARD_A_SECOND = 50
"""Of all workers of a sweep together."""


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

    @property
    def step_seconds(self) -> float:
        """Between two words of a trial on its steps: a thousand workers must not say a thousand a
        second.
        """
        return max(1.0, self.n_workers / STEPS_HEARD_A_SECOND)

    def environment(self) -> dict[str, str]:
        """What must be in the environment of this process before it imports torch."""
        n_workers, n_cores = self.n_workers, os.cpu_count() or 1
        if self.is_joined:
            node = here()
            n_cores = int(node.n_cpus)
            n_workers = places_on(node.n_gpus, self.gpus_per_trial)
            if not self.on_gpus:
                n_workers = -(-self.n_workers // len(nodes()))
        return training_environment(
            n_slots=max(1, n_workers), n_processes=self.n_processes, n_cores=n_cores
        )


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

    def __init__(self, model: ModelConfig, share: Share, probe: FolderProbe | None) -> None:
        # Before torch is imported, which reads them once.
        os.environ.update(share.environment())
        self._probe = probe
        self._home: Home | None = None
        self._trials = TrialThread(
            model, share.n_processes, share.of_a_gpu, step_seconds=share.step_seconds
        )

    def home(self) -> Home:
        if self._home is None:
            self._home = self._find_home()
        return self._home

    def _find_home(self) -> Home:
        node = here()
        return Home(
            node=socket.gethostname(),
            node_id=node.node_id,
            gpus=[str(i) for i in ray.get_gpu_ids()],
            gpu_type=node.gpu_type,
            pid=os.getpid(),
            sees_folder=self._probe is None or self._probe.is_from_here(),
            scratch=scratch_dir(self._probe, node.node_id) if self._probe else Path(),
        )

    def stop(self) -> None:
        self._trials.stop()

    def start(self, number: int, config: TrialConfig, uploaded: None) -> None:
        """Begin a trial, as soon as the base model is there.

        Args:
            uploaded: The answer of whoever has brought the trial's files.
        """
        self._trials.start(number, config)

    def next_event(self) -> Event:
        return self._trials.events.get()

    def answer(self, verdict: Stop | None) -> None:
        self._trials.answer(verdict)
