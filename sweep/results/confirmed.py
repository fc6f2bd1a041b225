"""What `sweep confirm` has measured, read from the sweep's folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sweep.errors import StudyError
from sweep.folder import layout
from sweep.results.paired_test import Difference, Mean, difference, mean_of
from sweep.results.reading import StoredSweep
from sweep.storage.attributes import COUNTS
from trials.trial_folder import ADAPTER, read_json, read_result


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirmed:
    """One configuration after all its runs."""

    trial: int
    hyperparameters: Mapping[str, Any]
    first: float | None
    """The sweep's own objective, on its sample of the eval rows."""
    values: Mapping[int, float]
    """By seed: the best objective of each run; an eval loss is that of all eval rows."""
    lost: Mapping[int, str]
    """By seed: why a run has no value that counts."""
    mean: Mean | None
    above_best: Difference | None
    """Beside the configuration with the best mean; None for that one itself."""
    adapters: Mapping[int, str] = field(default_factory=dict)
    """By seed."""


def read_plan(sweep: StoredSweep) -> list[tuple[int, int]]:
    """Return the trial and the seed of each run, in their order; none before the first.

    Raises:
        StudyError: The plan cannot be read, or is another sweep's.
    """
    path = sweep.folder / layout.CONFIRM / layout.PLAN
    mend = f"Restore it, or remove {path.parent} to confirm anew."
    what: dict[str, Any] = {"holds": "[trial, seed] of each run", "mend": mend}
    entries = read_json(path, list, **what, error=StudyError) or []
    numbers = {trial.number for trial in sweep.trials}
    for entry in entries:
        match entry:
            case [int(trial), int()] if trial in numbers:
                pass
            case _:
                raise StudyError(f"{path}: must hold {what['holds']}, but has {entry}. {mend}")
    return [(trial, seed) for trial, seed in entries]


def read_confirmed(sweep: StoredSweep) -> list[Confirmed]:
    """Read what all runs of a sweep's confirmation have come to, the best mean first."""
    entries = read_plan(sweep)
    values: dict[int, dict[int, float]] = {}
    lost: dict[int, dict[int, str]] = {}
    adapters: dict[int, dict[int, str]] = {}
    for number, (trial, seed) in enumerate(entries):
        run = layout.trial_dir(sweep.folder / layout.CONFIRM, number)
        found = read_result(run)
        if found is None or found[0].outcome == "interrupted":
            continue
        result = found[0]
        if result.outcome in COUNTS and result.best is not None:
            values.setdefault(trial, {})[seed] = result.best.value
            if (run / ADAPTER).is_dir():
                adapters.setdefault(trial, {})[seed] = str(run / ADAPTER)
        else:
            words = f"{result.outcome}: {result.reason.splitlines()[0]}"
            lost.setdefault(trial, {})[seed] = words
    known = {trial.number: trial for trial in sweep.trials}
    means = {trial: mean_of(found) for trial, found in values.items()}
    ranked = sorted(means, key=lambda trial: (sweep.objective.key(means[trial].mean), trial))
    ranked += [trial for trial in lost if trial not in means]
    return [
        Confirmed(
            trial=trial,
            hyperparameters=known[trial].hyperparameters,
            first=known[trial].value,
            values=values.get(trial, {}),
            lost=lost.get(trial, {}),
            mean=means.get(trial),
            above_best=difference(values[trial], values[ranked[0]])
            if trial in means and trial != ranked[0]
            else None,
            adapters=adapters.get(trial, {}),
        )
        for trial in ranked
    ]
