"""Word that a trial shall end."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweep.control.prune import ClearPruneRequests, prune
from sweep.errors import StudyError
from sweep.folder.lock import locked
from sweep.folder.requests import ask_to_prune, is_asked_to_prune
from tests.sweep.reviewed import make_config, point, result, write_sweep
from trials.config import Outcome, TrialResult


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    curve = [point(1, 1.5)]
    write_sweep(tmp_path / "mine", [(make_config(0), result("completed", curve), curve)])
    return tmp_path / "mine"


def test_a_sweep_that_does_not_run_hears_nothing(folder: Path) -> None:
    said: list[str] = []
    assert prune(folder, 0, said.append) == 1
    assert said == ["mine is not running."]


def test_a_trial_that_has_ended_is_left_as_it_is(folder: Path) -> None:
    said: list[str] = []
    with locked(folder):
        assert prune(folder, 0, said.append) == 1
    assert said == ["Trial 0 of mine has already ended: completed."]
    assert not is_asked_to_prune(folder, 0)


def test_a_number_without_a_trial_is_refused(folder: Path) -> None:
    with locked(folder), pytest.raises(StudyError, match="mine: no trial 4; its trials are 0 to 0"):
        prune(folder, 4, print)


@pytest.mark.parametrize(("outcome", "stays"), [("stopped", False), ("interrupted", True)])
def test_the_word_goes_with_the_end_of_its_trial_alone(
    tmp_path: Path, outcome: Outcome, stays: bool
) -> None:
    ask_to_prune(tmp_path, 7)
    ClearPruneRequests(tmp_path).trial_ended(8, TrialResult(outcome="completed", reason=""))
    assert is_asked_to_prune(tmp_path, 7)
    ClearPruneRequests(tmp_path).trial_ended(7, TrialResult(outcome=outcome, reason=""))
    assert is_asked_to_prune(tmp_path, 7) == stays
