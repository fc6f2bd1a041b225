"""Which trials are trained again, with which seeds, on which rows."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sweep.errors import StudyError
from sweep.folder import layout
from sweep.results.confirmed import read_plan
from sweep.results.reading import StoredSweep
from sweep.results.trial_record import Record, record_of
from sweep.study.task import has_its_tokens
from sweep.text.trials import an
from trials.config import TrialConfig, TrialResult
from trials.data.digests import KEY as DIGESTS
from trials.data.digests import digests_of, is_whole, see_whole
from trials.data.tokens import PARTS, TokenSplit
from trials.trial_folder import DATA_REPORT, EVAL_SAMPLE, read_report, read_result
from trials.whole_file import link_or_copy, write_whole


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


def plan(sweep: StoredSweep, *, top: int, n_seeds: int) -> list[Run]:
    """Return the runs that are wanted, those with one seed together, and write the plan.

    So that what there is when somebody stops it can be compared, all configurations have their
    first seed before any has its second.

    Args:
        top: The best so many trials, as the final evaluation decides.

    Raises:
        StudyError: There are no such trials, or a configuration cannot be read.
    """
    if not sweep.ranked:
        raise StudyError(f"{sweep.name}: no trial has {an(sweep.objective)} that counts yet.")
    ranked = sweep.decided
    records = [record_of(sweep, trial.number) for trial in ranked[:top]]
    wanted = [(record, 1 + i) for i in range(n_seeds) for record in records]
    there = sweep.folder / layout.CONFIRM / layout.PLAN
    known = read_plan(sweep)
    entries = [(r.trial.number, r.needed_config().seed + i) for r, i in wanted]
    known += [entry for entry in entries if entry not in known]
    there.parent.mkdir(exist_ok=True)
    write_whole(there, json.dumps(known))
    return [
        _run(record, entry, known.index(entry))
        for (record, _), entry in zip(wanted, entries, strict=True)
    ]


def _run(record: Record, entry: tuple[int, int], number: int) -> Run:
    (trial, seed), folder = entry, record.sweep.folder
    config = replace(
        record.needed_config(),
        number=number,
        seed=seed,
        data_dir=str((folder / layout.CONFIRM / layout.DATA).resolve()),
        output_dir=str(layout.trial_dir(folder / layout.CONFIRM, number).resolve()),
        evaluate_base=number == 0,
        confirms=trial,
    )
    return Run(trial, config)


def make_data(sweep: StoredSweep, max_length: int) -> int:
    """Lay the sweep's own rows beside the runs, all eval rows as the sample; return how many.

    Args:
        max_length: Of the longest row that a trial of the sweep may have.

    Raises:
        StudyError, DataError: The sweep's data is gone, or is not what its trials had.
    """
    source, there = (at / layout.DATA for at in (sweep.folder, sweep.folder / layout.CONFIRM))
    if not (source / DATA_REPORT).exists():
        raise StudyError(
            f"{source}: must hold the sweep's tokenised rows, but they are gone. Run the sweep's "
            f"command again: it restores them, even with no trials left."
        )
    report = read_report(source) or {}
    _see_that_rows_are_the_sweeps(source, report, sweep.task)
    see_whole(source)
    rows = TokenSplit.load(source / "eval")
    kept = np.flatnonzero(rows.supervised_tokens(max_length)).tolist()
    if not is_whole(there):
        unfinished = there.with_name(f"{layout.DATA}.tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        for part in PARTS:
            link_or_copy(source / f"train.{part}.npy", unfinished / f"train.{part}.npy")
        rows.taken(kept, max_length).save(unfinished / "sample")
        for file in source.iterdir():  # report.json, the tokenizer, and what a metric needs
            if file.is_dir():
                shutil.copytree(file, unfinished / file.name, copy_function=link_or_copy)
            elif file.suffix != ".npy" and file.name != EVAL_SAMPLE:
                shutil.copy(file, unfinished)
        report = {**report, DIGESTS: digests_of(unfinished)}
        (unfinished / DATA_REPORT).write_text(json.dumps(report, indent=1), encoding="utf-8")
        shutil.rmtree(there, ignore_errors=True)
        unfinished.rename(there)
    return len(kept)


def _see_that_rows_are_the_sweeps(
    data: Path, report: Mapping[str, Any], task: Mapping[str, Any]
) -> None:
    """A call of `sweep run` with other rows is refused, but has laid them there before."""
    same = {"train": "train_fingerprint", "eval": "eval_fingerprint", "tokenizer": "tokenizer"}
    changed = [key for key, name in same.items() if task.get(key) != report.get(name)]
    if changed:
        raise StudyError(
            f"{data}: must hold the rows of the sweep's trials, but they changed "
            f"({', '.join(changed)}). Put the old data files back and run the sweep's command "
            f"again: it restores them, even with no trials left."
        )
    if not has_its_tokens(report, task):
        raise StudyError(
            f"{data}: must hold the tokens of the sweep's trials, but this version has made others "
            f"of its rows. Confirm with the version that ran the sweep (its command restores "
            f"them), or run the sweep again under a new name."
        )
