"""Slots on Ray: one warm worker process per GPU, or N on the processors. The only user of ray."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Before Ray starts: it reads them once.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray's default is 15: whatever else runs on the box would come before the trials.
os.environ.setdefault("RAY_worker_niceness", "0")
if "RAY_ADDRESS" not in os.environ:
    # A Ray of our own is for this machine: its servers listen on localhost only. By its name the
    # switch is for other systems; what it does is to make localhost the node's address.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

import psutil
import ray
from ray.exceptions import RayError

from sweep.loop import AskTell, Place
from sweep.resolve import training_environment
from sweep.words import counted
from trials import worker as messages
from trials.config import Fault, ModelConfig, Stop, TrialConfig, TrialResult
from trials.faults import has_stalled

POLL_SECONDS = 0.2
"""How soon the end of the time, or Ctrl-C, is noticed while all trials train."""
PATIENCE_SECONDS = 60.0
"""For running trials to be set aside: each finishes a step and writes a checkpoint."""
GRACE_SECONDS = 5.0
"""For a process that Ray has asked to end."""
LOADS_TO_GIVE_UP = 2
"""So many times in a row may a slot fail to load what another one has loaded."""


@dataclass(frozen=True, slots=True)
class Home:
    """Where a worker's process is."""

    node: str
    """The host's name."""
    gpus: list[str]
    """The ids that Ray gave to it."""
    pid: int


class Worker:
    """The process behind a slot: it holds the base model and runs one trial at a time."""

    def __init__(self, model: ModelConfig, n_processes: int) -> None:
        self._trials = messages.TrialThread(model, n_processes)

    def home(self) -> Home:
        """Where this process is."""
        return Home(socket.gethostname(), [str(i) for i in ray.get_gpu_ids()], os.getpid())

    def stop(self) -> None:
        """Ask the running trial to be set aside."""
        self._trials.stop()

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
    home: Any = None
    """The answer to where the worker is, on its way; asked again and again as a sign of life."""
    known_home: Home | None = None
    asked_at: float = 0.0
    has_loaded: bool = False
    n_failed_loads: int = 0
    """In a row."""
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
        if not joined:
            _watch_for_leftovers()
        own: dict[str, Any] = {} if joined else {
            "address": "local",
            "num_cpus": max(n_cpu_workers or 0, os.cpu_count() or 1),
            "include_dashboard": False,
            # Nothing large passes through Ray: configurations and evaluations only.
            "object_store_memory": 100 * 2**20,
        }  # fmt: skip
        # Beside the logs, Ray prints its own long words into the table when a worker dies; ours say
        # which trial it was. There is no switch for them.
        ray._private.worker.print_to_stdstream = lambda *_, **__: None
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **own)
        except SystemExit:  # Ray's own answer to SIGTERM, which it takes over meanwhile
            raise KeyboardInterrupt from None
    return int(ray.cluster_resources().get("GPU", 0))


_watchers: list[subprocess.Popen[bytes]] = []
"""Processes that end what is left of Ray if this one is killed."""


def _watch_for_leftovers() -> None:
    _watchers.append(
        subprocess.Popen(
            [sys.executable, "-m", "sweep.ray_leftovers", str(os.getpid())],
            stdin=subprocess.PIPE,  # open as long as this process lives, however it ends
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C at the terminal is not meant for it
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    )


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
        self.timings = Timings()
        self._model = model
        self._on_gpus = on_gpus
        self._gpus_per_trial = gpus_per_trial
        self._sweep = sweep
        self._say = say
        self._has_loaded_once = False
        self._n_slots = n_slots
        self._slots = [Slot(index) for index in range(n_slots)]
        for slot in self._slots:
            self._fill(slot)

    @property
    def n_free(self) -> int:
        """Slots without a trial."""
        return sum(slot.trial is None for slot in self._slots)

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
            for slot in self._slots:
                if slot.worker is not None and not self._answers(slot):
                    home = slot.known_home
                    ended = self._died(slot, self._silence(slot))
                    _end_for_certain([] if home is None else [home])
                    if ended is not None:
                        return ended
            slots = {slot.next_event: slot for slot in self._slots if slot.worker is not None}
            if not slots:
                time.sleep(POLL_SECONDS)
                continue
            ready, _ = ray.wait(list(slots), num_returns=1, timeout=POLL_SECONDS)
            for reference in ready:
                ended = self._take(slots[reference])
                if ended is not None:
                    return ended
        return None

    def set_aside(self, until: Callable[[], bool]) -> Iterator[tuple[int, TrialResult]]:
        """Have running trials write a checkpoint and end; yields those that have ended.

        Args:
            until: Whoever waits has no more patience.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        running = [slot for slot in self._slots if slot.trial is not None and slot.has_started]
        for slot in running:
            slot.worker.stop.remote()
        while any(slot.trial is not None for slot in running):
            ended = self.wait(until=lambda: until() or time.monotonic() > deadline)
            if ended is None:
                return
            yield ended

    def shutdown(self) -> None:
        """End every worker process, trials in them included."""
        homes = [slot.known_home for slot in self._slots if slot.known_home is not None]
        for slot in self._slots:
            self._empty(slot)
        _end_for_certain(homes)

    def _fill(self, slot: Slot) -> None:
        slot.worker = self._new_worker()
        slot.next_event = slot.worker.next_event.remote()
        self._ask(slot)

    @staticmethod
    def _ask(slot: Slot) -> None:
        slot.home, slot.asked_at = slot.worker.home.remote(), time.monotonic()

    @staticmethod
    def _empty(slot: Slot) -> None:
        """End the process of a slot; it goes with all that it holds."""
        if slot.worker is not None:
            ray.kill(slot.worker)
        slot.worker = slot.next_event = slot.idle_since = slot.home = slot.known_home = None
        slot.has_loaded = False

    def _answers(self, slot: Slot) -> bool:
        """Whether the process of a slot has given a sign of life within `stall_minutes`.

        A process that trains but takes no step ends itself (`trials.faults`); this is for one that
        cannot even do that.
        """
        now = time.monotonic()
        if slot.home is not None and ray.wait([slot.home], timeout=0)[0]:
            with contextlib.suppress(RayError):  # it has died: its next event says so
                slot.known_home = ray.get(slot.home)
            slot.home = None
        # Before it has loaded, Ray may still look for a place for it, and imports hold its lock.
        if slot.trial is None or not slot.has_started:
            slot.asked_at = now
            return True
        stall_seconds = slot.trial[1].stall_minutes * 60
        if slot.home is None and now - slot.asked_at > stall_seconds / 10:
            self._ask(slot)
        return slot.home is None or now - slot.asked_at < stall_seconds

    @staticmethod
    def _silence(slot: Slot) -> str:
        assert slot.trial is not None
        return f"The worker process gave no answer for {slot.trial[1].stall_minutes:g} minutes."

    def _new_worker(self) -> Any:
        environment = training_environment(
            n_slots=self._n_slots, gpus_per_trial=self._gpus_per_trial
        )
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
            return self._died(slot, self._cause_of_death(slot, error))
        slot.next_event = slot.worker.next_event.remote()
        match event:
            case messages.Loaded():
                self.timings.imports.append(event.import_seconds)
                self.timings.loads.append(event.load_seconds)
                slot.has_loaded, slot.n_failed_loads = True, 0
                self._has_loaded_once = True
                return None
            case messages.Broken():
                cause = f"A worker cannot load the base model: {event.cause}"
                return self._died(slot, cause, is_load=True)
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
        slot.asked_at = time.monotonic()
        home = slot.known_home or Home("unknown", [], 0)  # it has died since: its next event
        device = f"GPU {','.join(home.gpus)}" if self._on_gpus else f"CPU worker {slot.index}"
        self._sweep.started(slot.trial[1], Place(home.node, device))

    def _died(
        self, slot: Slot, cause: str, *, is_load: bool = False
    ) -> tuple[int, TrialResult] | None:
        """Take the end of a worker, and of its trial, if it had one.

        A process that is gone is no fault of the trial. One that cannot load the base model is,
        unless others have loaded it: then it is the GPU or the machine.
        """
        trial, slot.trial = slot.trial, None
        had_loaded = slot.has_loaded
        self._empty(slot)
        is_last = not had_loaded and self._is_last_failed_load(slot, cause)
        if trial is None:
            self._say(cause)
            return None
        number, config = trial
        if not slot.has_started:
            self._sweep.started(
                config, Place(socket.gethostname(), "a worker that did not come up")
            )
        fault: Fault | None = "machine_lost" if had_loaded else "not_begun"
        if is_last or (is_load and not self._has_loaded_once):
            fault = None
        return number, messages.failed(cause, config, fault)

    def _is_last_failed_load(self, slot: Slot, cause: str) -> bool:
        """Give up a slot that cannot load what others can; whether it is the last one."""
        slot.n_failed_loads += 1
        if slot.n_failed_loads < LOADS_TO_GIVE_UP:
            return False
        if len(self._slots) == 1 or not self._has_loaded_once:
            return True
        self._slots.remove(slot)
        left = counted(len(self._slots), "worker")
        self._say(f"{cause} A place for trials is given up; the sweep goes on with {left}.")
        return False

    @staticmethod
    def _cause_of_death(slot: Slot, error: RayError) -> str:
        if slot.trial is not None:
            number, config = slot.trial
            if slot.has_started and has_stalled(
                messages.log_tail(Path(config.output_dir), n_lines=400)
            ):
                return (
                    f"Trial {number} took no step for {config.stall_minutes:g} minutes "
                    f"(stall_minutes), so its process was ended; its log says where it stood."
                )
        return f"The worker process died: {_death(error)}"


def _end_for_certain(homes: Sequence[Home]) -> None:
    """See that processes on this machine have ended.

    Ray asks them to, which one that hangs or is stopped does not hear.
    """
    processes = []
    for home in homes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if home.node == socket.gethostname():
                processes.append(psutil.Process(home.pid))
    _, alive = psutil.wait_procs(processes, timeout=GRACE_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _death(error: RayError) -> str:
    """Ray's reason, without its advice."""
    for line in str(error).splitlines():
        if "cause" in line.lower() or "exit" in line.lower():
            return line.strip()
    return str(error).splitlines()[0]


def disconnect() -> None:
    """Leave Ray; the processes that `connect` started end."""
    ray.shutdown()
    while _watchers:
        watcher = _watchers.pop()
        watcher.kill()
        watcher.communicate()
