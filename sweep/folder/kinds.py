"""Files and folders of a sweep that are in each other's place: refused in words, all at once."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from sweep.errors import StudyError
from sweep.folder.layout import (
    ALONE,
    ARTIFACTS,
    BEST,
    CONFIRM,
    DATA,
    FINAL,
    JOURNAL,
    LOCK,
    MLFLOW,
    MLFLOW_DATABASE,
    MLFLOW_SWEEP_ID,
    PLAN,
    PLOTS,
    REPORT,
    SEEN,
    SPACE,
    STOP,
    STUDY,
    SWEEP,
    TIMINGS,
    TRIALS,
    TUNE,
    prune_requests,
)
from trials.trial_folder import ADAPTER, CHECKPOINT, CONFIG, LOG, RESULT

_TRIALS = (TRIALS, f"{CONFIRM}/{TRIALS}", f"{FINAL}/{TRIALS}")
_FOLDERS = (*(DATA, BEST, PLOTS, ARTIFACTS, CONFIRM, FINAL, ALONE, TUNE), *_TRIALS)
_FILES = (
    *(SWEEP, SPACE, STUDY, REPORT, TIMINGS, MLFLOW, MLFLOW_DATABASE, MLFLOW_SWEEP_ID, JOURNAL),
    *(
        LOCK,
        STOP,
        SEEN,
        f"{CONFIRM}/{PLAN}",
        f"{FINAL}/{PLAN}",
        f"{BEST}/{CONFIG}",
        f"{BEST}/README.md",
    ),
)
_FILES_OF_A_TRIAL = (CONFIG, LOG, CHECKPOINT, RESULT)


def see_kinds(folder: Path, *, with_trials: bool = False) -> None:
    """See that no file stands where a sweep has a folder, nor a folder in the place of a file.

    Args:
        with_trials: Look at the trials' own, too.

    Raises:
        StudyError: With every such place.
    """
    wrong = [*_wrong(folder.parent, (), (folder.name,))]
    wrong = wrong or [*_wrong(folder, (*_FILES, *prune_requests(folder)), _FOLDERS)]
    if with_trials and not wrong:
        for trial in sorted(t for trials in _TRIALS for t in (folder / trials).glob("*")):
            wrong += _wrong(trial.parent, (), (trial.name,))
            wrong += _wrong(trial, _FILES_OF_A_TRIAL, (ADAPTER,))
    if wrong:
        raise StudyError("\n".join(wrong))


def _wrong(parent: Path, files: Sequence[str], folders: Sequence[str]) -> Iterator[str]:
    for name in files:
        path = parent / name
        if path.exists() and not path.is_file():
            found = "a folder" if path.is_dir() else "none"
            yield f"{path}: must be a file, but is {found}. Move it away."
    for name in folders:
        path = parent / name
        if os.path.lexists(path) and not path.is_dir():
            found = "a file" if path.is_file() else "none"
            yield f"{path}: must be a folder, but is {found}. Move it away."
