"""`Summary`: what a sweep has found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sweep.study.ended import StoredTrial
from sweep.text.trials import judged_against_base
from trials.config import BY_EVAL_LOSS, Objective

SAMPLE = "on the search's sample of eval rows"


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """How good a trial is, beside the base model."""

    value: float | None
    base_value: float | None
    eval_loss: float | None
    base_eval_loss: float | None
    where: str
    """`on all 64 eval rows`, of the final evaluation; empty: on the search's sample."""
    of_sample: str = ""
    """`on 32 eval rows`, as many as the sample has; empty: not known."""

    def in_words(self, objective: Objective) -> str:
        assert self.value is not None
        words = judged_against_base(
            objective, self.value, self.base_value, self.eval_loss, self.base_eval_loss
        )
        where = self.where or self.of_sample
        return f"{words[:-1]} {where}." if where else words


@dataclass(frozen=True, slots=True)
class Measured:
    """What the final evaluation says of a trial on all eval rows."""

    value: float
    """The objective."""
    eval_loss: float
    n_rows: int
    """That the objective is of."""


@dataclass(frozen=True, slots=True)
class ValueColumns:
    """What trials have reached, as columns of a table: after a final evaluation its figures, and
    beside each figure how many rows it is of."""

    objective: Objective
    measured: Mapping[int, Measured] = field(default_factory=dict)
    """By number: those that the final evaluation has put in order."""
    sample_rows: int | None = None
    """That the figures of all others are of; None: not known."""

    @property
    def headings(self) -> list[str]:
        rows = ["rows"] if self.measured else []
        return [self.objective.heading, *rows, *self._unless_by_loss("eval loss")]

    def of(self, trial: StoredTrial) -> list[str]:
        """Return a trial's objective, and its eval loss beside it where that is another."""
        found = self.measured.get(trial.number)
        value = trial.value if found is None else found.value
        n_rows = self.sample_rows if found is None else found.n_rows
        rows = ["" if value is None or n_rows is None else str(n_rows)] if self.measured else []
        shown = ["" if each is None else f"{each:.4f}" for each in (value, self.eval_loss(trial))]
        return [shown[0], *rows, *self._unless_by_loss(shown[1])]

    def eval_loss(self, trial: StoredTrial) -> float | None:
        """Return the one that is shown of a trial."""
        found = self.measured.get(trial.number)
        return trial.eval_loss if found is None else found.eval_loss

    def _unless_by_loss(self, cell: str) -> list[str]:
        return [] if self.objective.is_eval_loss else [cell]


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """All that the end of a sweep has to say."""

    name: str
    ended: Sequence[StoredTrial]
    ranked: Sequence[StoredTrial]
    """Trials with an honest value, the best first: as the final evaluation decides, once it has."""
    base_eval_loss: float | None
    best_dir: Path | None
    """The winner's adapter; None when there is none."""
    see_it_all: str
    """The command that shows the sweep in MLflow."""
    wall_seconds: float
    """That the sweep has run, over all its commands."""
    n_waiting: int
    """Trials that were cut off and wait to be continued."""
    report: Path | None = None
    """report.html, which may not have been written."""
    gpu_hours: float = 0.0
    """In which GPUs (or CPU workers) held trials."""
    price_per_gpu_hour: float | None = None
    """None: the space names none."""
    n_paused: int = 0
    """Trials that wait until they belong to the best."""
    objective: Objective = BY_EVAL_LOSS
    base_value: float | None = None
    """The base model's own objective; of eval loss it is `base_eval_loss`."""
    final_columns: ValueColumns | None = None
    """With the figures of the final evaluation; None: there was none."""

    chosen: StoredTrial | None = None
    """The winner, where it is known to be another than the first of the ranked."""
    final: Judged | None = None
    """How good the winner is, by the final evaluation where there was one; None: by the sample."""
    conclusion: str = ""
    """How sure it is that the winner is the best; `next_step` ends it."""
    next_step: str = ""
    """What makes it surer, with the command; empty where nothing is to be made surer."""

    @property
    def columns(self) -> ValueColumns:
        """What a table shows of the trials."""
        return self.final_columns or ValueColumns(self.objective)

    @property
    def winner(self) -> StoredTrial | None:
        return self.chosen or (self.ranked[0] if self.ranked else None)

    @property
    def judged(self) -> Judged:
        """How good the winner is."""
        winner = self.winner
        assert winner is not None
        return self.final or Judged(
            value=winner.value,
            base_value=self.base_value,
            eval_loss=winner.eval_loss,
            base_eval_loss=self.base_eval_loss,
            where="",
        )
