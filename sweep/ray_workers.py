"""Slots on Ray: one warm worker process per GPU, or N on the processors. The only user of ray."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

# Before Ray starts: it reads them once.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray's default is 15: whatever else runs on the box would come before the trials.
os.environ.setdefault("RAY_worker_niceness", "0")

import ray
from ray.exceptions import RayError

from sweep.loop import AskTell, Place
from sweep.resolve import training_environment
from trials import worker as messages
from trials.config import ModelConfig, Stop, TrialConfig, TrialResult

POLL_SECONDS = 0.2
"""How soon the end of the time, or Ctrl-C, is noticed while all trials train."""


class Worker:
    """The process behind a slot: it holds the base model and runs one trial at a time."""

    def __init__(self, model: ModelConfig, n_processes: int) -> None:
        self._trials = messages.TrialThread(model, n_processes)

    def device(self) -> tuple[str, list[str]]:
        """The host's name and the ids of the GPUs that Ray gave to this process."""
        return socket.gethostname(), [str(i) for i in ray.get_gpu_ids()]

    def start(self, number: int, config: TrialConfig) -> None:
        """Begin a trial, as soon as the base model is there."""
        self._trials.start(number, config)

    def next_event(self) -> messages.Event:
        """Wait for the next thing that happens."""
        return self._trials.events.get()

    def answer(self, verdict: Stop | None) -> None:
        """Give the verdict that the running trial waits for."""
        self._trials.answer(verdict)


@dataclass
class Slot:
    """A place for one trial, and the process that fills it now."""

    index: int
    worker: Any = None
    """The actor; None until a trial needs it, and again after it has died."""
    next_event: Any = None
    trial: tuple[int, TrialConfig] | None = None
    has_started: bool = False
    idle_since: float | None = None
    """When its trial ended; None before the first one and while one runs."""


@dataclass
class Timings:
    """What the sweep's own machinery cost, in seconds."""

    imports: list[float] = field(default_factory=list)
    """Each worker: importing torch and all above it."""
    loads: list[float] = field(default_factory=list)
    """Each worker: reading and quantising the base model."""
    gaps: list[float] = field(default_factory=list)
    """From the end of a trial to the start of the next one on the same slot."""
    started_at: list[float] = field(default_factory=list)
    """When each trial began, in seconds of the epoch."""
    ended_at: list[float] = field(default_factory=list)


def connect(*, n_cpu_workers: int | None) -> int:
    """Start Ray on this machine, unless it runs already, and return how many GPUs it has.

    Args:
        n_cpu_workers: Workers that will run on processors; None: trials run on GPUs.
    """
    if not ray.is_initialized():
        joined = "RAY_ADDRESS" in os.environ
        own: dict[str, Any] = {} if joined else {
            "address": "local",
            "num_cpus": max(n_cpu_workers or 0, os.cpu_count() or 1),
            "include_dashboard": False,
            # Nothing large passes through Ray: configurations and evaluations only.
            "object_store_memory": 100 * 2**20,
        }  # fmt: skip
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **own)
    return int(ray.cluster_resources().get("GPU", 0))


class RayRunner:
    """Runs trials on Ray, each on a warm worker with GPUs of its own, or a share of the processors.

    Args:
        model: What every worker loads.
        n_slots: Workers.
        on_gpus: Whether each has GPUs; otherwise each has its share of threads.
        gpus_per_trial: Of each worker, with a process for each; on processors, its processes.
        sweep: Hears of the trials.
        say: Told what a user should know of workers.
    """

    def __init__(
        self,
        model: ModelConfig,
        *,
        n_slots: int,
        on_gpus: bool,
        gpus_per_trial: int = 1,
        sweep: AskTell,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.slots = n_slots
        self.timings = Timings()
        self._model = model
        self._on_gpus = on_gpus
        self._gpus_per_trial = gpus_per_trial
        self._sweep = sweep
        self._say = say
        self._slots = [Slot(index) for index in range(n_slots)]
        for slot in self._slots:
            self._fill(slot)

    def start(self, number: int, config: TrialConfig) -> None:
        """Give the trial to a free slot, one with a loaded base model if there is one."""
        free = [slot for slot in self._slots if slot.trial is None]
        slot = next((slot for slot in free if slot.idle_since is not None), free[0])
        slot.trial, slot.has_started = (number, config), False
        if slot.worker is None:
            self._fill(slot)
        slot.worker.start.remote(number, config)

    def wait(self, until: Callable[[], bool]) -> tuple[int, TrialResult] | None:
        """Pass on what workers say until a trial ends or `until` becomes true."""
        while not until():
            slots = {slot.next_event: slot for slot in self._slots if slot.worker is not None}
            ready, _ = ray.wait(list(slots), num_returns=1, timeout=POLL_SECONDS)
            for reference in ready:
                ended = self._take(slots[reference])
                if ended is not None:
                    return ended
        return None

    def shutdown(self) -> None:
        """End every worker process, trials in them included."""
        for slot in self._slots:
            self._empty(slot)

    def _fill(self, slot: Slot) -> None:
        slot.worker = self._new_worker()
        slot.next_event = slot.worker.next_event.remote()

    @staticmethod
    def _empty(slot: Slot) -> None:
        """End the process of a slot; it goes with all that it holds."""
        if slot.worker is not None:
            ray.kill(slot.worker)
        slot.worker = slot.next_event = slot.idle_since = None

    def _new_worker(self) -> Any:
        environment = training_environment(n_slots=self.slots, gpus_per_trial=self._gpus_per_trial)
        options: dict[str, Any] = {
            # A crashed trial run again by Ray would report steps that the study already has.
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": 4,  # one waits for events while others start trials and answer
            "num_cpus": 0 if self._on_gpus else 1,
            "num_gpus": self._gpus_per_trial if self._on_gpus else 0,
            "runtime_env": {"env_vars": environment},
        }
        return ray.remote(**options)(Worker).remote(self._model, self._gpus_per_trial)

    def _take(self, slot: Slot) -> tuple[int, TrialResult] | None:
        try:
            event: messages.Event = ray.get(slot.next_event)
        except RayError as error:
            return self._died(slot, f"The worker process died: {_death(error)}")
        slot.next_event = slot.worker.next_event.remote()
        match event:
            case messages.Loaded():
                self.timings.imports.append(event.import_seconds)
                self.timings.loads.append(event.load_seconds)
                return None
            case messages.Broken():
                return self._died(slot, f"A worker cannot load the base model: {event.cause}")
            case messages.Started():
                self._started(slot)
                return None
            case messages.Reported():
                slot.worker.answer.remote(self._sweep.report(event.number, event.point))
                return None
            case messages.Ended():
                slot.trial, slot.idle_since = None, time.monotonic()
                self.timings.ended_at.append(time.time())
                if not event.is_clean:
                    self._empty(slot)
                return event.number, event.result

    def _started(self, slot: Slot) -> None:
        assert slot.trial is not None
        if slot.idle_since is not None:
            self.timings.gaps.append(time.monotonic() - slot.idle_since)
            slot.idle_since = None
        slot.has_started = True
        self.timings.started_at.append(time.time())
        try:
            node, gpus = ray.get(slot.worker.device.remote())
        except RayError:  # it has died since; that is its next event
            node, gpus = "unknown", []
        device = f"GPU {','.join(gpus)}" if self._on_gpus else f"CPU worker {slot.index}"
        self._sweep.started(slot.trial[1], Place(node, device))

    def _died(self, slot: Slot, cause: str) -> tuple[int, TrialResult] | None:
        trial, slot.trial = slot.trial, None
        self._empty(slot)
        if trial is None:
            self._say(cause)
            return None
        number, config = trial
        if not slot.has_started:
            self._sweep.started(
                config, Place(socket.gethostname(), "a worker that did not come up")
            )
        return number, messages.failed(cause, config)


def _death(error: RayError) -> str:
    """Ray's reason, without its advice."""
    for line in str(error).splitlines():
        if "cause" in line.lower() or "exit" in line.lower():
            return line.strip()
    return str(error).splitlines()[0]


def disconnect() -> None:
    """Leave Ray; the processes that `connect` started end."""
    ray.shutdown()
