"""Keep every slot busy until the budget is spent: the only loop of a sweep."""

import time
from collections.abc import Callable, Iterator
from typing import Protocol

from sweep.events import Ended, Reported, RunnerEvent, Started
from sweep.study.ask_tell import AskTell
from sweep.study.budget import Budget, Enough
from trials.config import TrialConfig

WAIT_SECONDS = 0.5
"""How soon a sweep that waits for room notices that there is some."""


class Runner(Protocol):
    """Runs trials, one per slot. A slot is a GPU, a share of one or several, or a CPU worker."""

    @property
    def n_free(self) -> int:
        """Slots in which a trial can begin now; they come and go with the machines of a cluster."""

    def start(self, number: int, config: TrialConfig) -> None:
        """Begin trial `number`. Called only while a slot is free."""

    def wait(self, until: Callable[[], bool]) -> Iterator[RunnerEvent]:
        """Yield what happens, until a trial has ended, a slot becomes free, or soon after `until`.

        An evaluation is answered before the next event is asked for. Where `until` is true from
        the beginning, yield what has come and wait for nothing. Never raises for a trial's own
        failure.
        """


def run(
    sweep: AskTell,
    runner: Runner,
    budget: Budget,
    is_stopped: Callable[[], bool] = lambda: False,
    has_room: Callable[[], bool] = lambda: True,
) -> Enough:
    """Run trials until the budget is spent or the space is exhausted; say which.

    Trials that still run when the time is over are left to the caller, as `Sweep.interrupt` does,
    and paused ones stay paused. Otherwise those of them that belong to the best go on first.

    Args:
        is_stopped: Whether somebody wants the end now.
        has_room: Whether the disk holds another trial; until it does, none begins.
    """
    n_running, n_ended = 0, sweep.n_ended()
    is_waiting = False

    def something_to_do() -> bool:
        return is_stopped() or budget.why_spent(sweep) is not None or (is_waiting and has_room())

    while True:
        n_trials = n_ended + n_running + sweep.n_paused()
        enough = Enough.STOPPED if is_stopped() else budget.why_enough(sweep, n_trials)
        if enough is not None and enough.cuts_off:
            return enough
        paused = sweep.promising(is_last=enough is not None)
        if enough is not None and paused is None and not n_running:
            sweep.end_paused()
            return enough
        wanted = enough is None or paused is not None
        begins = wanted and runner.n_free > 0 and has_room()
        if begins:
            runner.start(*sweep.ask(paused))
            n_running += 1
        is_waiting = wanted and not begins and runner.n_free > 0
        if is_waiting and not n_running:
            time.sleep(WAIT_SECONDS)
            continue
        # One at a time: while a thousand begin, those that run do not wait for their verdicts.
        for event in runner.wait(until=_at_once if begins else something_to_do):
            n_running -= isinstance(event, Ended)
            n_ended += take(sweep, event)


def take(sweep: AskTell, event: RunnerEvent) -> bool:
    """Tell the study what has happened to a trial; whether it has ended for good."""
    match event:
        case Started(config, place):
            sweep.started(config, place)
        case Reported(number, point, answer):
            answer(sweep.report(number, point))
        case Ended(number, result):
            return sweep.tell(number, result)
    return False


def _at_once() -> bool:
    return True
