"""A sweep from Python: `sweep.run("space.yaml")`, in a script or a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep.text.numbers import counted

if TYPE_CHECKING:  # `import sweep` stays light
    import pandas as pd
    from rich.console import Console

    from sweep.results.trial_record import Record
    from trials.config import Objective


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class SweepResult:
    """What a run of a sweep has come to."""

    name: str
    folder: Path
    """The sweep's: study.db, trials/, best/, report."""
    exit_code: int | None
    """0 done, 1 failed, 130 interrupted: as of the command. None: it was only read."""
    best: Record | None
    """The trial with the best objective that counts; None: there is none."""
    objective: Objective
    """What trials are judged by: eval loss, or a metric."""
    trials: pd.DataFrame
    """A row for each trial, by its number: outcome, reason, value (its best objective), eval_loss
    (there, in nats per supervised token), seconds, and a column for each hyperparameter. After a
    final evaluation value_on_all_rows too, which decides; value is of the search's sample."""
    curves: pd.DataFrame
    """A row for each evaluation of each trial that has ended: trial, index, step, epoch,
    score (of a metric), eval_loss, train_loss and what else was measured. Missing numbers are
    NaN."""

    @property
    def adapter(self) -> Path | None:
        """The best trial's adapter, as peft loads it."""
        return self.best.adapter if self.best else None

    def __repr__(self) -> str:
        words = "no trial counts"
        if self.best is not None:
            trial = self.best.trial
            judged = self.best.sweep.judged(trial)
            words = f"the best is trial {trial.number}, {self.objective.heading} {judged.value:.4f}"
            words = f"{words} {judged.where or judged.of_sample}".rstrip()
        n_trials = counted(len(self.trials), "trial")
        return f"SweepResult({self.name} in {self.folder}: {n_trials}, {words})"

    def _repr_html_(self) -> str:
        if self.trials.empty:
            return f"<b>{escape(self.name)}</b>: no trial yet"
        # `value_on_all_rows`, before `value`, decides: those that have it are the best few.
        by = [name for name in ("value_on_all_rows", "value") if name in self.trials]
        is_rising = self.objective.direction == "minimize"
        ranked = self.trials.sort_values(by, ascending=is_rising)
        ranked = ranked.drop(columns="reason").head(10)
        if len(self.trials) > 1:  # what all trials share tells nothing
            shown = ("outcome", "value", "value_on_all_rows", "eval_loss", "seconds")
            ranked = ranked[[c for c in ranked if c in shown or self.trials[c].nunique() > 1]]
        if self.objective.is_eval_loss:
            ranked = ranked.drop(columns="value")
        words = f"the best of {len(self.trials)} trials by {self.objective.heading}"
        return f"<b>{escape(self.name)}</b>: {words}{ranked.to_html()}"


def run(
    space: str | Path | Mapping[str, Any],
    *,
    output: str | Path = "sweeps",
    workers: int | None = None,
    gpus: int | None = None,
    mlflow: str | None = None,
    study: str | None = None,
    settings: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> SweepResult:
    """Run a sweep, or continue it, as `sweep run` does; return what it has come to.

    Args:
        space: The YAML file, or a mapping of what would stand in it, `name` included.
        output: Folder of all sweeps.
        workers: Trials at once on processors; None: GPUs where there are any.
        gpus: To use at most; None: all.
        mlflow: A server's address; None: where the sweep is, else MLFLOW_TRACKING_URI, else a
            database in its folder.
        study: A PostgreSQL database's address; None: a file in the sweep's folder.
        settings: Changes to the file: `{"budget.trials": 8, "search.rank": [8, 16]}`.
        console: Where its words and its table go; by default to the screen, or the notebook.

    Raises:
        SpaceError, StudyError, TrackingError: In words, before any trial starts.
    """
    import json
    import logging
    import warnings

    # In a notebook tqdm and Ray ask for ipywidgets, which nothing here needs.
    logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")
        from sweep.driver.job import Options
        from sweep.driver.run import run as run_sweep
    from sweep.screen.console import CleanConsole
    from sweep.screen.output import dropped_if_it_fails
    from sweep.space.loading import load_space

    changes = {key: json.dumps(value) for key, value in (settings or {}).items()}
    checked = load_space(space if isinstance(space, Mapping) else Path(space), changes)
    options = Options(output=Path(output), workers=workers, gpus=gpus, mlflow=mlflow, study=study)
    options.output.mkdir(parents=True, exist_ok=True)
    # markup=False: names and rows of a user may hold square brackets.
    console = console or CleanConsole(highlight=False, markup=False, emoji=False)
    with dropped_if_it_fails():
        code = run_sweep(checked, options, console)
    return read_result(options.output / checked.name, code)


def read_result(folder: str | Path, exit_code: int | None = None) -> SweepResult:
    """Read what a sweep has come to, running or not.

    Args:
        folder: The sweep's own.

    Raises:
        StudyError: There is none, or it cannot be read.
    """
    import pandas as pd

    from sweep.errors import NoWinner
    from sweep.results.reading import read_sweep
    from sweep.results.trial_record import record_of

    sweep = read_sweep(Path(folder))
    try:
        best = record_of(sweep)
    except NoWinner:
        best = None
    on_all = {number: found.value for number, found in sweep.columns.measured.items()}
    trials = [
        {
            "trial": trial.number,
            "outcome": trial.outcome,
            "reason": trial.reason,
            "value": trial.value,
            **({"value_on_all_rows": on_all.get(trial.number)} if on_all else {}),
            "eval_loss": trial.eval_loss,
            "seconds": trial.seconds,
            **trial.hyperparameters,
        }
        for trial in sweep.trials
    ]
    curves = [{"trial": trial.number, **point} for trial in sweep.trials for point in trial.points]
    return SweepResult(
        name=sweep.name,
        folder=sweep.folder,
        exit_code=exit_code,
        best=best,
        objective=sweep.objective,
        trials=pd.DataFrame(trials).set_index("trial") if trials else pd.DataFrame(),
        curves=pd.DataFrame(curves).drop(columns="step_losses", errors="ignore"),  # kept nowhere
    )
