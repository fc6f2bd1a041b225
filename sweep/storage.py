"""The study's database: it waits where a write cannot be done now, and loses none."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage

RETRY_SECONDS = 1.0
_WRITES = (
    "create_new_study",
    "create_new_trial",
    "set_study_user_attr",
    "set_study_system_attr",
    "set_trial_param",
    "set_trial_state_values",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
)
"""Each is one transaction, so that one which failed can be made again."""


@dataclass
class Patience:
    """What happens while the database cannot be written to."""

    say: Callable[[str], None] = lambda _: None
    """Hears why once, and once when it goes on."""
    is_over: Callable[[], bool] = lambda: True
    """Whether nobody wants to wait any longer; by default nobody does."""


class StudyAway(ValueError):
    """The study cannot be written, and nobody waits for it; in words for the user."""


class PatientStorage(RDBStorage):
    """Optuna's storage, whose writes are made again until they succeed: a full disk, a lost server.

    Training goes on meanwhile until its next evaluation.

    Args:
        patience: May be changed at any time.
    """

    def __init__(self, url: str, patience: Patience) -> None:
        super().__init__(url)
        self.patience = patience
        for name in _WRITES:
            setattr(self, name, self._patient(getattr(self, name)))

    def _patient(self, write: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(write)
        def until_done(*args: Any, **kwargs: Any) -> Any:
            has_failed = False
            while True:
                try:
                    answer = write(*args, **kwargs)
                except StorageInternalError as error:
                    if self.patience.is_over():
                        raise StudyAway(
                            f"The study cannot be written: {_cause(error)} What it holds is safe; "
                            f"run the same command when it can."
                        ) from None
                    if not has_failed:
                        self.patience.say(f"The study cannot be written: {_cause(error)} Waiting …")
                    has_failed = True
                    time.sleep(RETRY_SECONDS)
                else:
                    if has_failed:
                        self.patience.say("The study can be written again.")
                    return answer

        return until_done


def _cause(error: BaseException) -> str:
    """The database's own words, without SQL and parameters."""
    cause = getattr(error.__cause__, "orig", None) or error.__cause__ or error
    words = str(cause).splitlines()[0].rstrip(".")
    return f"{words}."


def storage_url(output_dir: Path) -> str:
    """The study's own sqlite file in the sweep's folder."""
    return f"sqlite:///{output_dir / 'study.db'}"
