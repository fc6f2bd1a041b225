"""The trials that have ended: what a study remembers of them, ranked, and whether they improve."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweep.storage import attributes
from sweep.storage.attributes import COUNTS, MEMORY, POINT, STATES, is_paused, value_best
from sweep.storage.mirror import InMemory
from sweep.storage.optuna_private import storage_of, trial_id_of
from sweep.study.plateau import EndedCurve, Flatness
from trials.config import EvalPoint, Objective, Outcome, TrialResult


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
        known = trial.user_attrs
        ended = Ended(
            number=trial.number,
            hyperparameters=known[POINT],
            outcome=known[attributes.OUTCOME],
            reason=known[attributes.OUTCOME_REASON],
            eval_loss_best=known.get(attributes.EVAL_LOSS_BEST),
            seconds=_seconds(known[attributes.RESULT]),
            last_index=known[attributes.CURVE][-1]["index"] if known[attributes.CURVE] else 0,
            value=value_best(known),
        )
        self._trials[trial.number] = ended
        best = None
        if ended.counts and ended.value is not None:
            best = self._key(ended.value)
            bisect.insort(self._places, (best, ended.number))
        curve = EndedCurve(best, [self._key(_value(point)) for point in known[attributes.CURVE]])
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
        return self._trials.keys()

    def by_number(self) -> list[Ended]:
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
    storage = storage_of(trial.study)
    assert isinstance(storage, InMemory), "opened by `open_study`"
    known: dict[str, Any] = {
        attributes.RESULT: asdict(result),
        attributes.OUTCOME: result.outcome,
        attributes.OUTCOME_REASON: result.reason,
        attributes.CURVE: [asdict(point) for point in curve],
    }
    if result.best is not None:
        known[attributes.EVAL_LOSS_BEST] = result.best.eval_loss
        known[attributes.VALUE_BEST] = result.best.value
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
    storage.end_trial(trial_id_of(trial), ended)
    return storage.get_trial(trial_id_of(trial))


def _value(point: Mapping[str, Any]) -> float:
    """`EvalPoint.value`, of a point as JSON has it."""
    score = point.get("score")
    return float(point["eval_loss"] if score is None else score)


def _seconds(result: Mapping[str, Any]) -> float:
    return float(result["training_seconds"] + result["evaluation_seconds"])
