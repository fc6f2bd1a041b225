"""Processes of a sweep that are killed, told to end, or stand still."""

from __future__ import annotations

import random
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from sweep.workers.signals import ENDING
from tests.faults import states
from tests.faults.campaign import WHOM, SweepUnderTest
from tests.faults.course import (
    ENDS_WITHIN_SECONDS,
    STOPS_WITHIN_SECONDS,
    Course,
    at_work,
    has_just_ended,
    last_words,
)
from tests.faults.short_of_memory import end_for_memory
from tests.faults.tally import Tally

HEARD_WITHIN_SECONDS = 15.0
SAID = re.compile("^Interrupted|Stopping: ", re.MULTILINE)
HITS_OF_A_TRIAL = 2
"""A trial is run again twice; it fails when its worker dies for the third time."""
STALL = "stall_minutes: 0.1\n"
STUCK_DIR = Path(__file__).parent / "stuck"


def driver(course: Course, chance: random.Random, tally: Tally) -> None:
    """The command is killed at a random moment, and given again."""

    def kill(sweep: SweepUnderTest) -> None:
        tally.injected(sweep, f"SIGKILL to the command {at_work(sweep)}")
        sweep.send(signal.SIGKILL)
        sweep.wait(STOPS_WITHIN_SECONDS)
        tally.check_gone(sweep)
        tally.check_readable(sweep)

    _cut_off(course, chance, tally, kill)


def one_worker(course: Course, chance: random.Random, tally: Tally) -> None:
    """As `driver`, with one worker and the defaults: all is as if nothing had happened."""
    course = course.with_defaults()
    tally.reference = course.reference
    driver(course, chance, tally)


def signals(course: Course, chance: random.Random, tally: Tally) -> None:
    """Signals in turn, to one, some and all of its processes, at random moments; then it goes on.

    Every other time a second one follows, at any moment of the end.
    """

    def stop(sweep: SweepUnderTest) -> None:
        number = ENDING[tally.n_injected % len(ENDING)]
        whom = WHOM[tally.n_injected % len(WHOM)]
        is_twice = tally.n_injected % 2 == 1
        words = f"{number.name} to {whom}{', twice' if is_twice else ''}"
        tally.injected(sweep, f"{words} {at_work(sweep)}")
        sweep.send(number, whom)
        if is_twice and sweep.wait(chance.uniform(0.0, 4.0)) is None:
            sweep.send(number, whom)
        code = sweep.wait(HEARD_WITHIN_SECONDS)
        if code is None:
            tally.is_wrong(f"{number.name} has not ended it in {HEARD_WITHIN_SECONDS:.0f} s")
        elif not (code == 130 and SAID.search(sweep.words)) and not has_just_ended(sweep, code):
            tally.is_wrong(f"{number.name} has ended it with {code}: {last_words(sweep)}")
        for words in states.tracebacks(sweep):
            tally.is_wrong(words)
        tally.check_gone(sweep)
        tally.check_readable(sweep)
        tally.check_none_runs(sweep)

    _cut_off(course, chance, tally, stop)


def _cut_off(
    course: Course, chance: random.Random, tally: Tally, cut: Callable[[SweepUnderTest], None]
) -> None:
    """Cut sweeps off at random moments, from the first second of a command on, to their end."""
    sweep: SweepUnderTest | None = None
    while not tally.is_done:
        sweep = sweep or course.new_sweep(f"{tally.fault}-{tally.n_sweeps}")
        sweep.start()
        code = _wait_for_moment(sweep, course, chance.uniform(1.0, course.latest_moment))
        if code is None:
            cut(sweep)
        else:
            tally.check_end(sweep, code)
            sweep = None
    if sweep is not None:
        sweep.start()
        tally.check_end(sweep, sweep.wait(ENDS_WITHIN_SECONDS))


def _wait_for_moment(sweep: SweepUnderTest, course: Course, moment: float) -> int | None:
    """Wait so many seconds, or so many that the usual start-up and the actual one end alike."""
    if moment <= course.start_up_seconds:
        return sweep.wait(moment)
    sweep.wait_until_begun()
    return sweep.wait(moment - course.start_up_seconds)


def workers(course: Course, chance: random.Random, tally: Tally) -> None:
    """The process of a random running trial is killed; the sweep goes on by itself."""
    while not tally.is_done:
        sweep = course.new_sweep(f"workers-{tally.n_sweeps}")
        sweep.start()
        sweep.wait_until_begun()
        hits: Counter[int] = Counter()
        while not tally.is_done and sweep.wait(chance.uniform(0.5, 6.0)) is None:
            victims = sorted(n for n in sweep.at_work() if hits[n] < HITS_OF_A_TRIAL)
            if not victims:
                continue
            number = chance.choice(victims)
            worker = sweep.at_work().get(number)
            if worker is None:
                continue
            hits[number] += 1
            tally.injected(sweep, f"SIGKILL to the worker {worker.pid} of trial {number}")
            worker.kill()
            tally.check_readable(sweep)
        tally.check_end(sweep, sweep.wait(ENDS_WITHIN_SECONDS))


def memory(course: Course, chance: random.Random, tally: Tally) -> None:
    """The kernel ends the command, its raylet or a worker, in turn, for want of memory."""
    while not tally.is_done:
        sweep = course.new_sweep(f"memory-{tally.n_sweeps}")
        sweep.start()
        sweep.wait_until_begun()
        while not tally.is_done and sweep.wait(chance.uniform(0.5, 6.0)) is None:
            whom = ("the command", "raylet", "a worker")[tally.n_injected % 3]
            victim = _victim(sweep, whom)
            if victim is None:
                continue
            tally.injected(sweep, f"no memory for {whom} {at_work(sweep)}")
            if not end_for_memory(victim):
                tally.is_wrong(f"the kernel has not ended {whom}")
            tally.check_readable(sweep)
            if whom == "a worker":
                continue
            if sweep.wait(STOPS_WITHIN_SECONDS) is None:
                tally.is_wrong(f"the command goes on without {whom}")
            tally.check_gone(sweep)
            sweep.start()
            sweep.wait_until_begun()
        tally.check_end(sweep, sweep.wait(ENDS_WITHIN_SECONDS))


def _victim(sweep: SweepUnderTest, whom: str) -> psutil.Process | None:
    if whom == "a worker":
        return next(iter(sweep.at_work().values()), None)
    alive = sweep.processes.alive
    if whom == "raylet":
        return next((process for process in alive if process.name() == "raylet"), None)
    return next((process for process in alive if process.pid == sweep.pid), None)


def hang(course: Course, chance: random.Random, tally: Tally) -> None:
    """A worker makes no step any more: stopped as a whole, or, in turn, stuck inside of one."""
    while not tally.is_done:
        if tally.n_injected % 2:
            sweep = _stuck(course, chance, tally)
        else:
            sweep = _stopped(course, chance, tally)
        tally.check_end(sweep, sweep.wait(ENDS_WITHIN_SECONDS))


def _stopped(course: Course, chance: random.Random, tally: Tally) -> SweepUnderTest:
    sweep = course.new_sweep(f"hang-{tally.n_sweeps}", more=STALL)
    sweep.start()
    sweep.wait_until_begun()
    sweep.wait(chance.uniform(0.5, 10.0))
    while not (at_work := sweep.at_work()):  # between two trials
        if sweep.wait(0.1) is not None:
            tally.is_wrong("the sweep has ended before a worker could be stopped")
            return sweep
    number = chance.choice(sorted(at_work))
    tally.injected(sweep, f"SIGSTOP to the worker {at_work[number].pid} of trial {number}")
    at_work[number].suspend()
    tally.check_readable(sweep)
    return sweep


def _stuck(course: Course, chance: random.Random, tally: Tally) -> SweepUnderTest:
    happened = course.folder / f"stuck-{tally.n_sweeps}"
    step = chance.randint(1, 100)
    environment = {
        "PYTHONPATH": f"{STUCK_DIR}:{STUCK_DIR.parents[2]}",
        "SWEEP_FAULTS_STUCK": str(happened),
        "SWEEP_FAULTS_STUCK_STEP": str(step),
    }
    sweep = course.new_sweep(f"hang-{tally.n_sweeps}", more=STALL, environment=environment)
    sweep.start()
    while not happened.exists() and sweep.wait(0.2) is None:
        pass
    tally.injected(sweep, f"a worker is stuck in step {step} {at_work(sweep)}")
    if not happened.exists():
        tally.is_wrong("no worker got stuck")
    tally.check_readable(sweep)
    return sweep
