"""What a worker process does: load the base model once, then run one trial after the other."""

import contextlib
import json
import math
import os
import queue
import re
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from trials.config import EvalPoint, Fault, ModelConfig, Stop, TrialConfig, TrialResult
from trials.data.digests import as_prepared, see_whole
from trials.faults import BEGINS, Watchdog, fault_of
from trials.foreign_text import harmless
from trials.messages import Broken, Ended, Event, Loaded, Reported, Started, Stepped
from trials.trial_folder import log_tail, logged, write_config


class TrialThread:
    """One thread that loads the base model and runs trials; its owner exchanges messages with it.

    All of torch stays in that one thread; the process stays free to answer.

    Args:
        n_processes: That train each trial together, this one included; the others are started here.
        gpu_share: Of the GPU's memory that may be taken, from 0 to 1.
        step_seconds: Between two words on the steps that a trial has taken.
    """

    def __init__(
        self,
        model: ModelConfig,
        n_processes: int = 1,
        gpu_share: float = 1.0,
        *,
        step_seconds: float = math.inf,
    ) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        self._trials: queue.Queue[tuple[int, TrialConfig]] = queue.Queue()
        self._verdicts: queue.Queue[Stop | None] = queue.Queue()
        self._is_asked_to_stop = threading.Event()
        self._step_seconds, self._stepped_at = step_seconds, 0.0
        threading.Thread(
            target=self._work, args=(model, n_processes, gpu_share), daemon=True, name="trials"
        ).start()

    def start(self, number: int, config: TrialConfig) -> None:
        """Run a trial as soon as the base model is there."""
        self._trials.put((number, config))

    def answer(self, verdict: Stop | None) -> None:
        """Give the verdict that the running trial waits for."""
        self._verdicts.put(verdict)

    def stop(self) -> None:
        """Ask the running trial to be set aside at the next step."""
        self._is_asked_to_stop.set()

    def _work(self, model: ModelConfig, n_processes: int, gpu_share: float) -> None:
        began = time.perf_counter()
        try:
            from trials.backends.loading import load
            from trials.distributed.group import ALONE
            from trials.distributed.processes import Peers

            peers = Peers(model, n_processes) if n_processes > 1 else None
            # Unsloth patches transformers and peft as it is imported: the backend comes first.
            base = load(model, gpu_share)
            from trials.memory.micro_batches import MicroBatchMemory
            from trials.training.train import run_trial

            group = peers.join() if peers else ALONE
        except Exception as error:
            self.events.put(Broken(cause_of(error), harmless(traceback.format_exc())))
            return
        self.events.put(Loaded(time.perf_counter() - began - base.load_seconds, base.load_seconds))
        memory = MicroBatchMemory()

        def trial(config: TrialConfig) -> TrialResult:
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            print(f"{BEGINS} {config.name}, {now}, process {os.getpid()}", flush=True)
            write_config(config)
            rows = Path(config.data_dir)
            with (
                as_prepared(rows, Path(config.output_dir)),
                Watchdog(config.stall_minutes) as watchdog,
            ):
                group.broadcast(config)

                def report(point: EvalPoint) -> Stop | None:
                    see_whole(rows)  # of changed ones nothing may reach the study
                    said = replace(point, row_nlls=None, step_losses=None)
                    print(json.dumps(asdict(said)), flush=True)
                    watchdog.stand_by()  # the answer is not the trial's to give
                    self.events.put(Reported(config.number, point))
                    verdict = self._verdicts.get()
                    watchdog.sign_of_life()
                    return verdict

                def after_step(step: int, n_steps: int) -> bool:
                    watchdog.sign_of_life()
                    self._tell_step(Stepped(config.number, step, n_steps))
                    return self._is_asked_to_stop.is_set()

                return run_trial(config, base, memory, report, group, after_step)

        while True:
            number, config = self._trials.get()
            self.events.put(Started(number))
            ended = guarded(trial, config)
            self._is_asked_to_stop.clear()  # a final evaluation comes after
            self.events.put(Ended(number, *ended))

    def _tell_step(self, event: Stepped) -> None:
        if time.monotonic() - self._stepped_at >= self._step_seconds:
            self._stepped_at = time.monotonic()
            self.events.put(event)


def guarded(
    trial: Callable[[TrialConfig], TrialResult], config: TrialConfig
) -> tuple[TrialResult, bool]:
    """Run a trial in its log; an exception becomes its FAILED result: the only place for that.

    Returns:
        The result, and whether the process may run another trial.
    """
    try:
        with logged(Path(config.output_dir)):
            try:
                return trial(config), True
            except Exception:
                with contextlib.suppress(OSError):  # the disk may be full
                    traceback.print_exc()
                raise
    except Exception as error:
        return failed(cause_of(error), config, fault_of(error)), False


def failed(cause: str, config: TrialConfig, fault: Fault | None = None) -> TrialResult:
    """The result of a trial that did not end by itself: its cause, and the end of its log."""
    tail = log_tail(Path(config.output_dir))
    return TrialResult(
        outcome="failed",
        reason=f"{cause}\nThe end of {config.output_dir}/log.txt:\n{tail}" if tail else cause,
        cause=cause_without_numbers(cause),
        fault=fault,
    )


def cause_of(error: BaseException) -> str:
    """One line that says what was raised."""
    words = str(error).strip().splitlines()
    return harmless(f"{type(error).__name__}: {words[0] if words else 'no message'}")


def cause_without_numbers(cause: str) -> str:
    """The cause without what differs from trial to trial, so that equal causes are equal."""
    return re.sub(r"0x[0-9a-f]+|\d+", "#", cause)
