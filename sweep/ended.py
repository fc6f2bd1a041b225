"""The trials that have ended: what a study remembers of them, ranked, and whether they improve."""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweep.flat import EndedCurve, Flatness
from sweep.mirror import InMemory
from sweep.view import POINT
from trials.config import EvalPoint, Outcome, TrialResult

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
"""Outcomes of trials whose best eval loss counts."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A trial that has ended, as the study remembers it."""

    number: int
    hyperparameters: dict[str, Any]
    outcome: Outcome
    reason: str
    eval_loss_best: float | None
    seconds: float
    last_index: int = 0
    """Of its last evaluation, 1…K; 0: it had none."""

    @property
    def place(self) -> tuple[float, int] | None:
        """Among the ranked, the lowest eval loss first; None without an honest value."""
        if self.outcome not in COUNTS or self.eval_loss_best is None:
            return None
        return self.eval_loss_best, self.number


class AllEnded:
    """All trials of a study that have ended; each is added once, as it ends."""

    def __init__(self, study: optuna.Study) -> None:
        self._trials: dict[int, Ended] = {}
        self._places: list[tuple[float, int]] = []
        self._flatness = Flatness()
        finished = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
        for trial in sorted(finished, key=lambda t: (t.datetime_complete, t.number)):
            self.add(trial)

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
        )
        self._trials[trial.number] = ended
        if ended.place is not None:
            bisect.insort(self._places, ended.place)
        self._flatness.add(
            EndedCurve(
                best=ended.eval_loss_best if ended.outcome in COUNTS else None,
                eval_losses=[point["eval_loss"] for point in known["curve"]],
            )
        )

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
        """Those with an honest value (completed, overfit), the lowest eval loss first.

        Args:
            n: The best so many; None: all.
        """
        return [self._trials[number] for _, number in self._places[:n]]

    def is_flat(self, n_trials: int) -> bool:
        """Whether the last `n_trials` have not lowered the best eval loss."""
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
    state = STATES[result.outcome]
    value = result.best.eval_loss if result.best and state is TrialState.COMPLETE else None
    if state is TrialState.PRUNED and curve and not math.isnan(curve[-1].eval_loss):
        value = curve[-1].eval_loss  # as Optuna has it, and shows it
    ended = create_trial(
        state=state,
        value=value,
        user_attrs=known,
        constraints={"memory": 1.0 if result.outcome == "out_of_memory" else -1.0},
    )
    storage.end_trial(trial._trial_id, ended)
    return storage.get_trial(trial._trial_id)


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
