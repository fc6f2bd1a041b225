"""What the final evaluation has measured, read from the sweep's folder."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sweep.study.ended import StoredTrial
from sweep.study.final import output_dir, read_plan
from trials.evaluation.row_nlls import RowLosses, rows_of
from trials.trial_folder import read_result


@dataclass(frozen=True, slots=True)
class Final:
    """Losses on all eval rows."""

    trials: dict[int, RowLosses] = field(default_factory=dict)
    """By number."""
    errors: dict[int, float] = field(default_factory=dict)
    """Standard errors of these losses by the choice of rows, in nats."""
    base: RowLosses | None = None

    def decided(self, ranked: Sequence[StoredTrial]) -> list[StoredTrial]:
        """Return trials in the order of their losses on all eval rows, those first that have them.

        It decides among the best of the sample that it has measured: a trial that has come since
        may be better than any of them.

        Args:
            ranked: By the sample, the best first.
        """
        measured = list(itertools.takewhile(lambda trial: trial.number in self.trials, ranked))
        rest = ranked[len(measured) :]
        return [*sorted(measured, key=lambda trial: self.trials[trial.number].loss), *rest]


def read_final(folder: Path) -> Final:
    """Return what has been measured of a sweep so far."""
    found = Final()
    base = None
    for number, trial in enumerate(read_plan(folder)):
        measured = read_result(output_dir(folder, number))
        best = measured[0].best if measured else None
        rows = rows_of(best) if best is not None else None
        if rows is not None and trial is not None:
            found.trials[trial] = rows
            if best is not None and best.eval_loss_error is not None:
                found.errors[trial] = best.eval_loss_error
        elif rows is not None:
            base = rows
    return replace(found, base=base)
