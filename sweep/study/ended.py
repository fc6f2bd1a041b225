"""Trials as a study remembers them, those that have ended ranked, and whether they improve."""

import bisect
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal, Self

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweep.storage import attributes
from sweep.storage.attributes import COUNTS, MEMORY, POINT, STATES, TOLD, is_paused, value_best
from sweep.storage.mirror import InMemory
from sweep.storage.optuna_private import storage_of, trial_id_of
from sweep.study.plateau import EndedCurve, Flatness
from sweep.study.told import first_told, told_now
from trials.config import EvalPoint, Objective, Outcome, TrialResult, trial_name


@dataclass(frozen=True, slots=True)
class StoredTrial:
    """A trial as its study remembers it: whatever ranks, counts or shows trials takes this one."""

    number: int
    hyperparameters: Mapping[str, Any]
    outcome: Outcome | Literal["running", "waiting"]
    """Of an ended trial; `running`, `paused` until it belongs to the best, or `waiting` to be
    continued."""
    reason: str = ""
    """Why it ended; empty before."""
    value: float | None = None
    """The best objective so far: the eval loss, or the score."""
    eval_loss: float | None = None
    """Of its best evaluation, in nats per supervised token; where the objective is a metric, None
    before the end."""
    seconds: float | None = None
    """Of training and evaluation; None before the end."""
    n_lost: int = 0
    """Times that its process or machine was lost."""
    ended_at: float | None = None
    """Seconds of the epoch."""
    told: int = 0
    """Its place among the ends, whatever the clock said; 0: an earlier version did not count."""
    values: Mapping[int, float] = field(default_factory=dict)
    """The objective by the index of the evaluation, 1…K; known of a running trial too."""
    points: Sequence[Mapping[str, Any]] = ()
    """Its evaluations, as JSON has them; none before the end."""
    result: Mapping[str, Any] = field(default_factory=dict)
    """`TrialResult`, as JSON has it; empty before the end."""

    @classmethod
    def of(cls, trial: FrozenTrial, objective: Objective, *, lives: bool = True) -> Self:
        """Read a trial that has a point.

        Args:
            lives: Whether a process runs the sweep: else none of its trials runs.
        """
        known, values = trial.user_attrs, trial.intermediate_values
        value = value_best(known)
        if value is None or not math.isfinite(value):
            finite = [value for value in values.values() if math.isfinite(value)]
            value = min(finite, key=objective.key, default=None)
        # What an end writes is read of an ended trial alone: it comes with the state, in one write.
        of_end = known if trial.state.is_finished() else {}
        result = of_end.get(attributes.RESULT, {})
        return cls(
            number=trial.number,
            hyperparameters={**attributes.UNKNOWN_BEFORE, **known[POINT]},
            outcome=_outcome(trial, lives=lives),
            reason=of_end.get(attributes.OUTCOME_REASON, ""),
            value=value,
            eval_loss=value if objective.is_eval_loss else known.get(attributes.EVAL_LOSS_BEST),
            seconds=result["training_seconds"] + result["evaluation_seconds"] if result else None,
            n_lost=int(known.get(attributes.N_LOST, 0)),
            ended_at=ended.timestamp() if (ended := trial.datetime_complete) else None,
            told=known.get(TOLD, [0])[-1],
            values=values,
            points=of_end.get(attributes.CURVE, ()),
            result=result,
        )

    @property
    def name(self) -> str:
        """As in a list: `017 r16 α32 lr3.1e-4 e2 b16`."""
        return trial_name(self.number, self.hyperparameters)

    @property
    def counts(self) -> bool:
        """Whether it has an honest value, which may win: completed and overfit trials."""
        return self.outcome in COUNTS and self.value is not None

    @property
    def curve(self) -> list[tuple[int, float]]:
        """Index and objective of each evaluation, in order; finite ones only."""
        return [(i, value) for i, value in sorted(self.values.items()) if math.isfinite(value)]

    @property
    def last_index(self) -> int:
        """Of its last evaluation, 1…K; 0: it had none."""
        return int(self.points[-1]["index"]) if self.points else max(self.values, default=0)

    @property
    def best_epoch(self) -> float | None:
        """Passes over the training rows when it was best; None where that is not known."""
        return (self.result.get("best") or {}).get("epoch")


def place(objective: Objective, trial: StoredTrial) -> tuple[float, int]:
    """What trials sort by: the best objective first, those without one last."""
    return math.inf if trial.value is None else objective.key(trial.value), trial.number


class AllEnded:
    """All trials of a study that have ended; each is added once, as it ends."""

    def __init__(self, study: optuna.Study, objective: Objective) -> None:
        self._objective = objective
        self._trials: dict[int, StoredTrial] = {}
        self._ranked: list[StoredTrial] = []
        self._flatness = Flatness()
        self._paused: dict[int, int] = {}
        """Trials that count as one without a better value, until more is known of them, and their
        places in `Flatness`."""
        for trial in sorted(study.get_trials(deepcopy=False), key=first_told):
            if trial.state.is_finished():
                self.add(trial)
            elif trial.user_attrs.get(TOLD) or is_paused(trial):
                self.pause(trial.number)

    def add(self, trial: FrozenTrial) -> None:
        ended = self._trials[trial.number] = StoredTrial.of(trial, self._objective)
        key, best = self._objective.key, None
        if ended.counts:
            bisect.insort(self._ranked, ended, key=partial(place, self._objective))
            best, _ = place(self._objective, ended)
        curve = EndedCurve(best, [key(_value(point)) for point in ended.points])
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

    def by_number(self) -> list[StoredTrial]:
        return [self._trials[number] for number in sorted(self._trials)]

    def ranked(self, n: int | None = None) -> list[StoredTrial]:
        """Those with an honest value (completed, overfit), the best first.

        Args:
            n: The best so many; None: all.
        """
        return self._ranked[:n]

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
        TOLD: told_now(trial),
        attributes.CURVE: [asdict(point) for point in curve],
    }
    if trial.user_attrs.get(attributes.PAUSED):
        known[attributes.PAUSED] = None
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


def _outcome(trial: FrozenTrial, *, lives: bool) -> Outcome | Literal["running", "waiting"]:
    if trial.state.is_finished():
        outcome: Outcome = trial.user_attrs.get(attributes.OUTCOME, "failed")
        return outcome
    if is_paused(trial):
        return "paused"
    return "running" if lives and trial.state is TrialState.RUNNING else "waiting"
