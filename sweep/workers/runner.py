"""Slots on Ray: one warm worker process per GPU, or N on the processors, wherever Ray puts them."""

import contextlib
import math
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.exceptions import RayError

from sweep.clock import WORK
from sweep.events import Ended, Place, Reported, RunnerEvent, Started
from sweep.text.numbers import counted
from sweep.workers.actor import Home, Share, Worker
from sweep.workers.connection import here, is_joined
from sweep.workers.endings import death, is_machine_lost, of_elsewhere, stall
from sweep.workers.file_sync import Courier, FolderProbe
from sweep.workers.slots import LOADS_TO_GIVE_UP, Arriving, Slot, Timings
from sweep.workers.usage import Usage
from trials import messages
from trials.config import Fault, ModelConfig, TrialConfig, TrialResult
from trials.worker import failed

POLL_SECONDS = 0.2
"""How soon the end of the time, or Ctrl-C, is noticed while all trials train."""
PATIENCE_SECONDS = 60.0
"""For running trials to be set aside: each finishes a step and writes a checkpoint."""
GRACE_SECONDS = 5.0
"""For a process that Ray has asked to end."""
SIGN_SECONDS = 20.0
"""Between two signs of life of a worker. Where the network was away for a while, only a new call
finds out at once that its connection is gone; Ray's own look at those that wait is every 5 minutes.
"""
FIT_SECONDS = 2.0
"""Between two looks at what the cluster has."""


class RayRunner:
    """Runs trials on Ray, each on a warm worker with GPUs of its own, or a share of the processors.

    Args:
        model: What every worker loads.
        n_slots: How many workers there should be now; asked again and again, since machines of a
            cluster come and go. One that Ray finds no place for waits, and gets no trial.
        on_gpus: Whether each has GPUs; otherwise each has its share of threads.
        gpus_per_trial: Of each worker, with a process for each; on processors, its processes.
            Below 1: its share of a GPU.
        folder: The sweep's. Machines of a cluster that do not see it send their files.
        say: Told what a user should know of workers.
    """

    def __init__(
        self,
        model: ModelConfig,
        *,
        n_slots: Callable[[], int],
        on_gpus: bool,
        gpus_per_trial: float = 1,
        folder: Path | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.timings = Timings()
        self.usage = Usage()
        self._model = model
        self._n_slots = n_slots
        self._on_gpus = on_gpus
        self._gpus_per_trial = gpus_per_trial
        self._say = say
        self._has_loaded_once = False
        self._n_wanted = 0
        """Slots that there should be, at the latest look; those given up included."""
        self._n_given_up = 0
        self._n_made = 0
        self._fitted_at = 0.0
        self._node_id = here().node_id
        self._probe = FolderProbe.write(folder) if folder is not None and is_joined() else None
        self._courier = Courier()
        self._arriving: list[Arriving] = []
        self._heard: deque[Started | Reported] = deque()
        self._ended: deque[Ended] = deque()
        self._slots: list[Slot] = []
        self._fit()

    @property
    def n_free(self) -> int:
        """Slots in which a trial can begin now; an end that is not told yet still holds one."""
        return max(0, sum(slot.is_free for slot in self._slots) - len(self._ended))

    def start(self, number: int, config: TrialConfig) -> None:
        """Give the trial to a free slot, one with a loaded base model if there is one."""
        slot = min(
            (slot for slot in self._slots if slot.trial is None),
            key=lambda slot: (slot.idle_since is None, not slot.has_loaded, not slot.is_free),
        )
        slot.trial, slot.has_started, slot.is_handed_over = (number, config), False, False
        if slot.worker is None:
            slot.fill(self._new_worker())
        self._hand_over(slot)

    def wait(self, until: Callable[[], bool]) -> Iterator[RunnerEvent]:
        n_free = self.n_free
        while True:
            is_over = until()
            self._fit()
            self._courier.look()
            self._end_silent_ones()
            yield from self._listen(0.0 if is_over or self._ended else POLL_SECONDS)
            self._take_arrived()
            self._count()
            if self._ended:
                yield self._ended.popleft()
                return
            if is_over or self.n_free > n_free:
                return

    def set_aside(self, until: Callable[[], bool]) -> Iterator[RunnerEvent]:
        """Have running trials write a checkpoint and end; yields what happens meanwhile.

        Args:
            until: Whoever waits has no more patience.
        """
        deadline = WORK.now() + PATIENCE_SECONDS

        def is_over() -> bool:
            return until() or WORK.now() > deadline

        running = [slot for slot in self._slots if slot.trial is not None and slot.has_started]
        for slot in running:
            slot.worker.stop.remote()
        while any(slot.trial is not None for slot in running) or self._arriving or self._ended:
            event = None
            for event in self.wait(until=is_over):
                yield event
            if is_over() and not isinstance(event, Ended):
                return

    def _count(self) -> None:
        """A slot is there once Ray has found a place for it."""
        n_slots = sum(slot.known_home is not None for slot in self._slots)
        n_busy = sum(slot.trial is not None and slot.has_started for slot in self._slots)
        self.usage.count(n_slots, n_busy)

    def shutdown(self) -> None:
        homes = [slot.known_home for slot in self._slots if slot.known_home is not None]
        for slot in self._slots:
            slot.empty()
        self._courier.close()
        self._end_for_certain(homes)

    def _end_for_certain(self, homes: Sequence[Home]) -> None:
        """See that processes on this machine have ended.

        Ray asks them to, which one that hangs or is stopped does not hear.
        """
        processes = []
        for home in homes:
            with contextlib.suppress(psutil.NoSuchProcess):
                if home.node_id == self._node_id:
                    processes.append(psutil.Process(home.pid))
        _, alive = psutil.wait_procs(processes, timeout=GRACE_SECONDS)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def _fit(self) -> None:
        """Have as many slots as there should be, each with a worker."""
        if self._slots and WORK.now() - self._fitted_at < FIT_SECONDS:
            return
        self._fitted_at = WORK.now()
        before = len(self._slots)
        self._n_wanted = self._n_slots()
        wanted = self._n_wanted - self._n_given_up
        for slot in [s for s in self._slots if s.known_home is None and s.trial is None]:
            if len(self._slots) > wanted:
                slot.empty()
                self._slots.remove(slot)
        while len(self._slots) < wanted:
            self._slots.append(Slot(self._n_made))
            self._n_made += 1
        for slot in self._slots:
            if slot.worker is None and slot.n_failed_loads < LOADS_TO_GIVE_UP:
                slot.fill(self._new_worker())
        now = len(self._slots)
        if before and now != before:
            self._say(f"The cluster now has {counted(now, 'slot')} for trials, before {before}.")

    def _new_worker(self) -> Any:
        share = Share(
            n_workers=self._n_wanted,
            on_gpus=self._on_gpus,
            gpus_per_trial=self._gpus_per_trial,
            is_joined=is_joined(),
        )
        options: dict[str, Any] = {
            # A crashed trial run again by Ray would report steps that the study already has.
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": 4,  # one waits for events while others start trials and answer
            "num_cpus": 0 if self._on_gpus else 1,
            "num_gpus": self._gpus_per_trial if self._on_gpus else 0,
            "scheduling_strategy": "DEFAULT" if self._on_gpus else "SPREAD",
        }
        return ray.remote(**options)(Worker).remote(self._model, share, self._probe)

    def _hand_over(self, slot: Slot) -> None:
        """Give the worker its trial, as soon as it is known where that is."""
        home = slot.known_home
        if home is None or slot.trial is None or slot.is_handed_over:
            return
        slot.is_handed_over = True
        number, config = slot.trial
        if home.sees_folder:
            there, uploaded = config, None
        else:
            there, uploaded = self._courier.upload(config, home.node_id, home.scratch)
        slot.starting = slot.worker.start.remote(number, there, uploaded)

    def _end_silent_ones(self) -> None:
        """End processes that have given no sign of life within `stall_minutes`.

        A process that trains but takes no step ends itself (`trials.faults`); this is for one that
        cannot even do that.
        """
        now = WORK.now()
        for slot in list(self._slots):
            # Before it has loaded, Ray may still look for a place, and imports hold its lock.
            trial = slot.trial if slot.has_started else None
            minutes = math.inf if trial is None else trial[1].stall_minutes
            every = min(SIGN_SECONDS, minutes * 60 / 10)
            if slot.known_home is not None and now - slot.called_at > every:
                slot.called_at = now
                if slot.home is None:
                    slot.ask()
                else:  # the answer may be lost, with the connection that it was to come by
                    slot.worker.home.remote()
            if trial is not None and slot.home is not None and now - slot.asked_at >= minutes * 60:
                home = slot.known_home
                self._died(slot, f"The worker process did not answer for {minutes:g} minutes.")
                self._end_for_certain([] if home is None else [home])

    def _listen(self, seconds: float) -> Iterator[Started | Reported]:
        """Wait so long for the next thing that any worker says; yield all that is said by then."""
        takes: dict[Any, tuple[Slot, Callable[[Slot, Any], None]]] = {}
        for slot in self._slots:
            if slot.worker is not None:
                takes[slot.next_event] = slot, self._take
                takes[slot.home] = slot, self._take_home
                takes[slot.starting] = slot, self._take_start
        takes.pop(None, None)
        if not takes:
            time.sleep(seconds)
            return
        references = list(takes)
        ready, _ = ray.wait(references, num_returns=1, timeout=seconds)
        if ready:
            ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        for reference in ready:
            slot, take = takes[reference]
            if reference in (slot.next_event, slot.home, slot.starting):  # else it has died since
                take(slot, reference)
            # At once: the trial waits, and there may be a thousand references.
            while self._heard:
                yield self._heard.popleft()

    def _take_home(self, slot: Slot, reference: Any) -> None:
        slot.home = None
        with contextlib.suppress(RayError):  # it has died: its next event says so
            slot.known_home = ray.get(reference)
            self._hand_over(slot)

    def _take_start(self, slot: Slot, reference: Any) -> None:
        slot.starting = None
        try:
            ray.get(reference)
        except RayError as error:
            self._died(slot, f"The trial did not reach its worker. {death(error, slot.known_home)}")

    def _take(self, slot: Slot, reference: Any) -> None:
        try:
            event: messages.Event = ray.get(reference)
        except RayError as error:
            self._died(slot, death(error, slot.known_home), is_machine=is_machine_lost(error))
            return
        slot.next_event = slot.worker.next_event.remote()
        match event:
            case messages.Loaded():
                self.timings.imports.append(event.import_seconds)
                self.timings.loads.append(event.load_seconds)
                slot.has_loaded, slot.n_failed_loads = True, 0
                self._has_loaded_once = True
            case messages.Broken():
                cause = f"A worker cannot load the base model: {event.cause}"
                self._died(slot, cause, is_load=True)
            case messages.Started():
                self._started(slot)
            case messages.Stepped():
                self.usage.steps[event.number] = event.step, event.n_steps
            case messages.Reported():
                answer = slot.worker.answer.remote
                self._heard.append(Reported(event.number, event.point, answer))
            case messages.Ended():
                self._take_end(slot, event)

    def _take_end(self, slot: Slot, event: messages.Ended) -> None:
        assert slot.trial is not None
        (number, config), slot.trial = slot.trial, None
        slot.idle_since = WORK.now()
        self.usage.steps.pop(number, None)
        self.timings.trial_ended()
        home = slot.known_home
        if not event.is_clean:
            slot.empty()
        if not self._courier.is_away(number):
            self._ended.append(Ended(number, event.result))
            return
        assert home is not None, "the trial was handed over there"

        def result(is_here: bool) -> TrialResult:
            return of_elsewhere(event.result, config, home, is_here=is_here)

        self._arriving.append(Arriving(number, self._courier.download_rest(number), result))

    def _take_arrived(self) -> None:
        arrived = [trial for trial in self._arriving if trial.files.done()]
        self._arriving = [trial for trial in self._arriving if trial not in arrived]
        self._ended += [Ended(each.number, each.result(each.files.result())) for each in arrived]

    def _started(self, slot: Slot) -> None:
        assert slot.trial is not None
        if slot.idle_since is not None:
            self.timings.gaps.append(WORK.now() - slot.idle_since)
            slot.idle_since = None
        slot.has_started = True
        self.timings.trial_started()
        slot.asked_at = WORK.now()
        assert slot.known_home is not None, "the trial was handed over there"
        place = self._place(slot.index, slot.known_home)
        self._heard.append(Started(slot.trial[1], place))

    def _place(self, index: int, home: Home) -> Place:
        if not self._on_gpus:
            return Place(home.node, f"CPU worker {index}")
        kind = f" ({home.gpu_type})" if home.gpu_type else ""
        return Place(home.node, f"GPU {','.join(home.gpus)}{kind}")

    def _died(
        self, slot: Slot, cause: str, *, is_load: bool = False, is_machine: bool = False
    ) -> None:
        """Take the end of a worker, and of its trial, if it had one.

        A process that is gone is no fault of the trial. One that cannot load the base model is,
        unless others have loaded it: then it is the GPU or the machine.
        """
        trial, slot.trial = slot.trial, None
        had_loaded, has_started, home = slot.has_loaded, slot.has_started, slot.known_home
        slot.empty()
        is_failed_load = not had_loaded and not is_machine
        is_last = is_failed_load and self._is_last_failed_load(slot, cause)
        if trial is None:
            self._say(cause)
            return
        number, config = trial
        if not has_started:
            nowhere = Place(socket.gethostname(), "a worker that did not come up")
            place = self._place(slot.index, home) if home else nowhere
            self._heard.append(Started(config, place))
        fault: Fault | None = "machine_lost" if had_loaded else "not_begun"
        if is_last or (is_load and not self._has_loaded_once):
            fault = None

        def result(_: bool = True) -> TrialResult:
            words = stall(config) if has_started else None
            return failed(words or cause, config, fault)

        if self._courier.is_away(number):
            self._arriving.append(Arriving(number, self._courier.download_rest(number), result))
        else:
            self._ended.append(Ended(number, result()))

    def _is_last_failed_load(self, slot: Slot, cause: str) -> bool:
        """Give up a slot that cannot load what others can; whether it is the last one."""
        slot.n_failed_loads += 1
        if slot.n_failed_loads < LOADS_TO_GIVE_UP:
            return False
        if len(self._slots) == 1 or not self._has_loaded_once:
            return True
        self._slots.remove(slot)
        self._n_given_up += 1
        left = counted(len(self._slots), "worker")
        self._say(f"{cause} One slot is given up; the sweep continues with {left}.")
        return False
