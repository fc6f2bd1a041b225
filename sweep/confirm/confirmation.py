"""`sweep confirm`: the best trials trained again, with other seeds, judged by all eval rows.

What a sweep calls its winner had one seed and a sample of the eval rows, and was the lowest of
many: part of its lead is luck. Here each of the best has the same new seeds.

Everything lies below `confirm/` of the sweep's folder: `plan.json`, the runs in their order; each
in `trials/NNN/`, as a trial of a sweep does. So whatever has ended is not run again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sweep.driver.loop import Place
from sweep.pruners.own_curve import ByItself, stopped_by_hand
from sweep.results.paired_test import Difference, Mean, difference, mean_of
from sweep.results.status import open_to_read, read_status
from sweep.results.trial_record import Record, read_record
from sweep.screen.summary import an
from sweep.storage.patient import StudyError
from sweep.study.ended import COUNTS
from sweep.study.sweep import RUNS_AGAIN, Tracker
from sweep.tracking.writer import without_secrets
from trials.config import EvalPoint, Stop, TrialConfig, TrialResult
from trials.data.tokens import PARTS, TokenSplit
from trials.trial_folder import forget_result, read_result, write_result
from trials.whole_file import write_whole

FOLDER = "confirm"


@dataclass(frozen=True, slots=True)
class Run:
    """A trial's configuration with a seed of its own."""

    trial: int
    """The number of the sweep's trial."""
    config: TrialConfig
    """Its number is the run's own, in `plan.json`."""

    @property
    def folder(self) -> Path:
        """Of config.json, log.txt, adapter/ and result.json."""
        return Path(self.config.output_dir)

    @property
    def result(self) -> TrialResult | None:
        """How it ended; None: it has not, or for no fault of its own."""
        found = read_result(self.folder)
        if found is None or found[0].outcome in ("interrupted", "failed"):
            return None
        return found[0]


def plan(folder: Path, *, top: int, n_seeds: int) -> list[Run]:
    """Return the runs that are wanted, those with one seed together, and write the plan.

    So that what there is when somebody stops it can be compared, all configurations have their
    first seed before any has its second.

    Args:
        folder: The sweep's.
        top: The best so many trials.

    Raises:
        StudyError: There are no such trials, or a configuration cannot be read.
    """
    records = [read_record(folder, number) for number in _best(folder, top)]
    wanted = [(record, 1 + i) for i in range(n_seeds) for record in records]
    there = folder / FOLDER / "plan.json"
    known = [tuple(entry) for entry in json.loads(there.read_text())] if there.exists() else []
    entries = [(r.trial.number, r.needed_config().seed + i) for r, i in wanted]
    known += [entry for entry in entries if entry not in known]
    there.parent.mkdir(exist_ok=True)
    write_whole(there, json.dumps(known))
    return [
        _run(folder, record, entry, known.index(entry))
        for (record, _), entry in zip(wanted, entries, strict=True)
    ]


def _best(folder: Path, top: int) -> list[int]:
    status = read_status(folder)
    if not status.ranked:
        raise StudyError(f"{status.name}: no trial has {an(status.objective)} that counts yet.")
    return [trial.number for trial in status.ranked[:top]]


def _run(folder: Path, record: Record, entry: tuple[int, int], number: int) -> Run:
    trial, seed = entry
    config = replace(
        record.needed_config(),
        number=number,
        seed=seed,
        data_dir=str((folder / FOLDER / "data").resolve()),
        output_dir=str((folder / FOLDER / "trials" / f"{number:03d}").resolve()),
        evaluate_base=number == 0,
    )
    return Run(trial, config)


def make_data(folder: Path, max_length: int) -> int:
    """Lay the sweep's own rows beside the runs, all eval rows as the sample; return how many.

    Args:
        folder: The sweep's.
        max_length: Of the longest row that a trial of the sweep may have.

    Raises:
        StudyError: The sweep's data is gone, or is not what its trials had.
    """
    source, there = folder / "data", folder / FOLDER / "data"
    if not (source / "report.json").exists():
        raise StudyError(
            f"{source}: the sweep's tokenised rows are gone. The sweep's own command lays them "
            f"there again, also when all its trials have run."
        )
    _see_that_rows_are_the_sweeps(folder)
    rows = TokenSplit.load(source / "eval")
    kept = np.flatnonzero(rows.supervised_tokens(max_length)).tolist()
    if not (there / "report.json").exists():
        unfinished = there.with_name("data.tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        for part in PARTS:
            _link(source / f"train.{part}.npy", unfinished / f"train.{part}.npy")
        rows.taken(kept, max_length).save(unfinished / "sample")
        for file in source.iterdir():  # report.json, and what a metric needs
            if file.suffix != ".npy" and file.name != "eval_sample.jsonl":
                shutil.copy(file, unfinished)
        unfinished.rename(there)
    return len(kept)


def _see_that_rows_are_the_sweeps(folder: Path) -> None:
    """A call of `sweep run` with other rows is refused, but has laid them there before."""
    report = json.loads((folder / "data" / "report.json").read_text(encoding="utf-8"))
    task = open_to_read(folder).user_attrs.get("task") or {}
    same = {"train": "train_fingerprint", "eval": "eval_fingerprint", "tokenizer": "tokenizer"}
    changed = [key for key, name in same.items() if task.get(key) != report.get(name)]
    if changed:
        raise StudyError(
            f"{folder / 'data'}: must hold the rows of the sweep's trials, but these are others "
            f"(changed: {', '.join(changed)}). Put the old data files back, and call the sweep's "
            f"own command: it lays them there again, also when all its trials have run."
        )


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy(source, target)


@dataclass
class Confirmation:
    """The runs, from the side of the loop: an `AskTell` whose points are known beforehand.

    Args:
        runs: All that are wanted; those that have ended are not asked for.
        by_itself: Ends runs that diverge or overfit, as in the sweep. Nothing is compared with
            its peers while it runs: that would bend the means.
    """

    runs: Sequence[Run]
    by_itself: ByItself
    trackers: Sequence[Tracker] = ()
    base_eval_loss: float | None = None
    is_asked_to_prune: Callable[[int], bool] = lambda number: False
    """Whether a person wants run `number` to end."""

    def __post_init__(self) -> None:
        self._waiting = deque(run.config for run in self.runs if run.result is None)
        self._running: dict[int, TrialConfig] = {}
        self._curves: dict[int, list[EvalPoint]] = {}
        self._n_lost: dict[int, int] = {}
        self._n_ended = len(self.runs) - len(self._waiting)

    def ask(self, paused: int | None = None) -> tuple[int, TrialConfig]:
        """Return the next run."""
        config = self._waiting.popleft()
        self._running[config.number], self._curves[config.number] = config, []
        Path(config.output_dir).mkdir(parents=True, exist_ok=True)
        forget_result(Path(config.output_dir))
        return config.number, config

    def started(self, config: TrialConfig, place: Place) -> None:
        """Pass on that a run has its slot."""
        for tracker in self.trackers:
            tracker.trial_started(config, place)

    def report(self, number: int, point: EvalPoint) -> Stop | None:
        """Take an evaluation and return the verdict."""
        curve = self._curves[number]
        if curve and point.index <= curve[-1].index:
            return None  # it goes on after a checkpoint
        stop = None
        if point.index == 0:
            self.base_eval_loss = point.eval_loss
        else:
            curve.append(point)
            config = self._running[number]
            n_evaluations = config.n_evaluations
            stop = self.by_itself.verdict(curve, self.base_eval_loss, config.lr_scheduler)
            if stop is None and point.index < n_evaluations and self.is_asked_to_prune(number):
                stop = stopped_by_hand(point, n_evaluations)
        for tracker in self.trackers:
            tracker.trial_reported(number, point)
        return stop

    def tell(self, number: int, result: TrialResult) -> bool:
        """Take the end of a run; one that was cut off, or lost its machine, goes on later."""
        config, curve = self._running.pop(number), self._curves.pop(number)
        # What a library raises may hold an address with a password; from here it goes everywhere.
        result = replace(result, reason=without_secrets(result.reason))
        if result.fault is not None:
            self._n_lost[number] = self._n_lost.get(number, 0) + 1
            if result.fault != "machine_lost" or self._n_lost[number] <= RUNS_AGAIN:
                result = replace(result, outcome="interrupted")
        has_ended = result.outcome != "interrupted"
        if result.outcome == "failed":  # whoever reads it later should know; a failure wrote none
            write_result(config, result, curve)
        if has_ended:
            self._n_ended += 1
        else:
            self._waiting.append(config)
        for tracker in self.trackers:
            tracker.trial_ended(number, result)
        return has_ended

    def interrupt(self) -> None:
        """Let trackers hear that runs which still run do not run any more."""
        words = "Cut off; the same command goes on with it."
        for number in list(self._running):
            self.tell(number, TrialResult(outcome="interrupted", reason=words))

    def n_ended(self) -> int:
        """Runs that have ended, those of earlier calls included."""
        return self._n_ended

    def n_paused(self) -> int:
        """Every run goes to its end."""
        return 0

    def promising(self, *, is_last: bool) -> int | None:
        """None is paused."""
        return None

    def end_paused(self) -> None:
        """None is paused."""

    def is_exhausted(self) -> bool:
        """Whether every run has been asked for."""
        return not self._waiting

    def gpu_seconds(self) -> float:
        """There is no budget of them here."""
        return 0.0

    def is_flat(self, n_trials: int) -> bool:
        """All runs are wanted."""
        return False


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


def read_confirmed(folder: Path) -> list[Confirmed]:
    """Read what all runs of a sweep's confirmation have come to, the best mean first.

    Raises:
        StudyError: The sweep cannot be read.
    """
    there = folder / FOLDER / "plan.json"
    if not there.exists():
        return []
    entries = json.loads(there.read_text())
    values: dict[int, dict[int, float]] = {}
    lost: dict[int, dict[int, str]] = {}
    adapters: dict[int, dict[int, str]] = {}
    for number, (trial, seed) in enumerate(entries):
        run = folder / FOLDER / "trials" / f"{number:03d}"
        found = read_result(run)
        if found is None or found[0].outcome == "interrupted":
            continue
        result = found[0]
        if result.outcome in COUNTS and result.best is not None:
            values.setdefault(trial, {})[seed] = result.best.value
            if (run / "adapter").is_dir():
                adapters.setdefault(trial, {})[seed] = str(run / "adapter")
        else:
            words = f"{result.outcome}: {result.reason.splitlines()[0]}"
            lost.setdefault(trial, {})[seed] = words
    status = read_status(folder)
    known = {trial.number: trial for trial in status.trials}
    means = {trial: mean_of(found) for trial, found in values.items()}
    ranked = sorted(means, key=lambda trial: (status.objective.key(means[trial].mean), trial))
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
