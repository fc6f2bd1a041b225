"""Open the study of a sweep to read it."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.storages import BaseStorage

from sweep.errors import StudyError
from sweep.folder import layout
from sweep.storage.of_folder import has_study, server_of, study_reader
from sweep.storage.patient import cause_of


def open_to_read(folder: Path, storage: BaseStorage | None = None) -> optuna.Study:
    """Open the study of a folder, to be looked at.

    Args:
        storage: The study's, where it is open; None: where the folder says.

    Raises:
        StudyError: There is none, or it cannot be read.
    """
    if storage is None and not has_study(folder):
        raise StudyError(f"{folder}: has no study.db, so no sweep has begun there.")
    server = server_of(folder)
    is_shared = storage is not None or server is not None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.load_study(
            study_name=folder.name if is_shared else None, storage=storage or study_reader(folder)
        )
        study.get_trials(deepcopy=False)
    except (KeyError, ValueError):
        raise StudyError(f"{folder}: has no study yet, so no sweep has begun there.") from None
    except Exception as error:
        place = server or folder / layout.STUDY
        raise StudyError(f"{place}: the study cannot be read: {cause_of(error)}") from None
    return study
