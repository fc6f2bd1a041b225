"""What a study keeps beside Optuna's own fields: names of attributes and their meaning."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from trials.config import Outcome

# User attributes of a study.
TASK = "task"  # what all its trials share (`sweep.study.task`)
EVALUATE_ROWS = "evaluate_rows"  # as the space had them when the task was noted
OBJECTIVE_ROWS = "objective_rows"  # likewise
DATE = "date"  # that chat templates write for today, where they do
SEARCH = "search"  # the domains of the last run, as text, by name
STARTED_FROM = "start_from"  # names of the earlier sweeps that it has taken points of
SWEEP_ID = "sweep_id"  # of the sweep that it belongs to, where it lies on a server
STATE = "state"  # how the sweep is, why, and since when (seconds of the epoch)
BASE_EVAL_LOSS = "base_eval_loss"  # the base model's own
BASE_IS_ROW_BY_ROW = "base_is_row_by_row"  # measured by a version that lets no row see another
BASE_ROW_NLLS = "base_row_nlls"  # its nats of each eval row (`trials.evaluation.row_nlls`)
BASE_VALUE = "base_value"  # its own objective, where that is a metric
GPU_SECONDS = "gpu_seconds"  # in which slots held trials, times the GPUs of a trial
PRICE = "price_per_gpu_hour"  # as the space had it in the last run; None: it had none
WALL_SECONDS = "wall_seconds"  # that its commands have run, from their first trial on
PASSED_ON = "passed_on"  # trials of whose end all trackers were told, as ranges

# User attributes of a trial.
POINT = "hyperparameters"  # every one of them, the fixed ones included
N_LOST = "n_lost"  # times that its process or machine was lost
# When it was paused, each time, and when it ended, counted over the whole study from 1 on: what
# hangs on the order of ends must not hang on a clock, nor on when the study was opened.
TOLD = "told"
STOP = "stop"  # its peers' verdict, and at which evaluation, until it has been acted on
# Of a paused trial: its result and curve so far. To Optuna it still runs: its value is not known,
# and nobody but the sweep decides when it goes on.
PAUSED = "paused"
# They come when it ends:
RESULT = "result"  # a `TrialResult`
OUTCOME = "outcome"
OUTCOME_REASON = "outcome_reason"
CURVE = "curve"  # every `EvalPoint` from index 1 on; before the end up to its latest rung
EVAL_LOSS_BEST = "eval_loss_best"  # at its best evaluation
VALUE_BEST = "value_best"  # the objective there

UNKNOWN_BEFORE: Mapping[str, Any] = {"experts": False}
"""Hyperparameters that points of earlier versions lack, with what their trials had."""


def point_of(trial: Any) -> dict[str, Any] | None:
    """A trial's hyperparameters, of Optuna's trial or a frozen one; None: it has none yet."""
    point = trial.user_attrs.get(POINT)
    return None if point is None else {**UNKNOWN_BEFORE, **point}


MEMORY = "memory"
"""The constraint that an out-of-memory trial breaks: 1, and -1 of all others."""


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


def value_best(known: Mapping[str, Any]) -> float | None:
    """The objective at a trial's best evaluation, out of its user attributes."""
    value = known.get(VALUE_BEST, known.get(EVAL_LOSS_BEST))  # older versions wrote the latter
    return None if value is None else float(value)


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


def is_paused(trial: FrozenTrial) -> bool:
    """Whether a trial of a study is paused."""
    return trial.state is TrialState.RUNNING and bool(trial.user_attrs.get(PAUSED))


def curve_of(trial: FrozenTrial) -> Sequence[Mapping[str, Any]]:
    """Return the evaluations of an ended or paused trial, as JSON has them; of others none."""
    known = trial.user_attrs
    if is_paused(trial):
        known = known[PAUSED]
    return list(known.get(CURVE, []))
