"""The trials that have ended: what a study remembers of them, ranked, and whether they improve."""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweep.storage.mirror import InMemory
from sweep.study.next_trial import MEMORY, POINT
from sweep.study.paused import is_paused
from sweep.study.plateau import EndedCurve, Flatness
from trials.config import EvalPoint, Objective, Outcome, TrialResult

STATES: Mapping[Outcome, TrialState] = {
    "completed": TrialState.COMPLETE,
    # What an overfit trial is worth is known: its best eval loss. Told PRUNED, it would teach the
    # sampler to stay away from what may be the best point of the study.
    "overfit": TrialState.COMPLETE,
    "diverged": TrialState.PRUNED,
    "outclassed": TrialState.PRUNED,
    # By hand. What it would have come to is not known, whatever its user thought of it.
    "stopped": TrialState.PRUNED,
    # The sampler never sees FAIL and would draw the same corner again; a constraint it sees.
    "out_of_memory": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}

COUNTS = frozenset(o for o, state in STATES.items() if state is TrialState.COMPLETE)
"""Outcomes of trials whose best value counts."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A trial that has ended, as the study remembers it."""

    number: int
    hyperparameters: dict[str, Any]
    outcome: Outcome
    reason: str
    eval_loss_best: float | None
    """Of its best evaluation, whose adapter is kept; in nats per supervised token."""
    seconds: float
    value: float | None
    """The objective at its best evaluation: the eval loss, or the score."""
    last_index: int = 0
    """Of its last evaluation, 1…K; 0: it had none."""

    @property
    def counts(self) -> bool:
        """Whether it has an honest value."""
        return self.outcome in COUNTS and self.value is not None


class AllEnded:
    """All trials of a study that have ended; each is added once, as it ends."""

    def __init__(self, study: optuna.Study, objective: Objective) -> None:
        self._key = objective.key
        self._trials: dict[int, Ended] = {}
        self._places: list[tuple[float, int]] = []
        self._flatness = Flatness()
        self._paused: dict[int, int] = {}
        """Trials that count as one without a better value, until more is known of them, and their
        places in `Flatness`."""
        finished = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
        for trial in sorted(finished, key=lambda t: (t.datetime_complete, t.number)):
            self.add(trial)
        for trial in filter(is_paused, study.get_trials(deepcopy=False)):
            self.pause(trial.number)

    def add(self, trial: FrozenTrial) -> None:
        """Take the next one that has ended."""
        known = trial.user_attrs
        ended = Ended(
            number=trial.number,
            hyperparameters=known[POINT],
            outcome=known["outcome"],
            reason=known["outcome_reason"],
            eval_loss_best=known.get("eval_loss_best"),
            seconds=_seconds(known["result"]),
            last_index=known["curve"][-1]["index"] if known["curve"] else 0,
            value=value_best(known),
        )
        self._trials[trial.number] = ended
        best = None
        if ended.counts and ended.value is not None:
            best = self._key(ended.value)
            bisect.insort(self._places, (best, ended.number))
        curve = EndedCurve(best, [self._key(_value(point)) for point in known["curve"]])
        if trial.number in self._paused:
            self._flatness.add_again(self._paused[trial.number], curve)
        else:
            self._flatness.add(curve)

    def pause(self, number: int) -> None:
        """Take a trial that may never end: until it does, it has not bettered anything."""
        if number not in self._paused:
            self._paused[number] = self._flatness.add(EndedCurve(None, []))

    def __len__(self) -> int:
        return len(self._trials)

    @property
    def numbers(self) -> Set[int]:
        """Their numbers."""
        return self._trials.keys()

    def by_number(self) -> list[Ended]:
        """All of them."""
        return [self._trials[number] for number in sorted(self._trials)]

    def ranked(self, n: int | None = None) -> list[Ended]:
        """Those with an honest value (completed, overfit), the best first.

        Args:
            n: The best so many; None: all.
        """
        return [self._trials[number] for _, number in self._places[:n]]

    def is_flat(self, n_trials: int) -> bool:
        """Whether the last `n_trials` have not bettered the objective."""
        return self._flatness.is_flat(n_trials)


def tell_ended(trial: optuna.Trial, curve: Sequence[EvalPoint], result: TrialResult) -> FrozenTrial:
    """Tell the study of a trial's end, in one write; all that is known of it stays there."""
    storage = trial.study._storage
    assert isinstance(storage, InMemory), "opened by `open_study`"
    known: dict[str, Any] = {
        "result": asdict(result),
        "outcome": result.outcome,
        "outcome_reason": result.reason,
        "curve": [asdict(point) for point in curve],
    }
    if result.best is not None:
        known["eval_loss_best"] = result.best.eval_loss
        known["value_best"] = result.best.value
    state = STATES[result.outcome]
    value = result.best.value if result.best and state is TrialState.COMPLETE else None
    if state is TrialState.PRUNED and curve and not math.isnan(curve[-1].value):
        value = curve[-1].value  # as Optuna has it, and shows it
    ended = create_trial(
        state=state,
        value=value,
        user_attrs=known,
        constraints={MEMORY: 1.0 if result.outcome == "out_of_memory" else -1.0},
    )
    storage.end_trial(trial._trial_id, ended)
    return storage.get_trial(trial._trial_id)


def value_best(known: Mapping[str, Any]) -> float | None:
    """The objective at a trial's best evaluation, out of its user attributes."""
    value = known.get("value_best", known.get("eval_loss_best"))  # older versions wrote the latter
    return None if value is None else float(value)


def _value(point: Mapping[str, Any]) -> float:
    """`EvalPoint.value`, of a point as JSON has it."""
    score = point.get("score")
    return float(point["eval_loss"] if score is None else score)


def _seconds(result: Mapping[str, Any]) -> float:
    return float(result["training_seconds"] + result["evaluation_seconds"])


def as_ranges(numbers: Collection[int]) -> list[list[int]]:
    """Whole numbers as ranges, first and last: of many trials nearly all follow each other."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges


def from_ranges(ranges: Iterable[int | Sequence[int]]) -> set[int]:
    """The numbers again; single ones, which older versions wrote, are read too."""
    numbers: set[int] = set()
    for entry in ranges:
        first, last = (entry, entry) if isinstance(entry, int) else entry
        numbers.update(range(first, last + 1))
    return numbers
