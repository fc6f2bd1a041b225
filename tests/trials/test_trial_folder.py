"""What a trial leaves in its folder when it ends."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from trials.config import DataError, EvalPoint, TrialConfig, TrialResult
from trials.trial_folder import forget_result, read_result, write_result
from trials.whole_file import write_whole

POINT = EvalPoint(
    index=1,
    step=3,
    epoch=0.5,
    eval_loss=1.25,
    train_loss=math.nan,
    learning_rate=1e-4,
    grad_norm=0.5,
    tokens_per_second=10.0,
    gpu_memory_gib=None,
    seconds=2.0,
)
RESULT = TrialResult(outcome="completed", reason="Ran to its end.", best=POINT)


@pytest.fixture
def trial(config: Callable[..., TrialConfig]) -> TrialConfig:
    made = config()
    Path(made.output_dir).mkdir(parents=True)
    return made


def test_a_result_is_read_as_it_was_written(trial: TrialConfig) -> None:
    write_result(trial, RESULT, [POINT])
    found = read_result(Path(trial.output_dir))
    assert found is not None
    assert repr(found) == repr((RESULT, [POINT]))  # nan is not equal to itself


@pytest.mark.parametrize("size", [0, 1, 100])
def test_a_torn_result_is_told_and_stays(trial: TrialConfig, size: int) -> None:
    write_result(trial, RESULT, [POINT])
    path = Path(trial.output_dir) / "result.json"
    path.write_text(path.read_text()[:size])
    with pytest.raises(DataError, match="must hold how the trial ended, but is .*Delete it to run"):
        read_result(Path(trial.output_dir))
    assert path.stat().st_size == size


@pytest.mark.parametrize("text", ["null", "{}", '{"result": {"best": null}, "points": []}'])
def test_a_result_that_is_none_is_told(trial: TrialConfig, text: str) -> None:
    path = Path(trial.output_dir) / "result.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    with pytest.raises(DataError, match="must hold how the trial ended, but"):
        read_result(Path(trial.output_dir))


def test_a_trial_that_begins_again_has_none(trial: TrialConfig) -> None:
    write_result(trial, RESULT, [])
    forget_result(Path(trial.output_dir))
    assert read_result(Path(trial.output_dir)) is None


def test_a_file_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.json"
    write_whole(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_in_the_place_of_a_result_is_told_not_waited_for(trial: TrialConfig) -> None:
    os.mkfifo(Path(trial.output_dir) / "result.json")
    with pytest.raises(DataError, match=r"result\.json: .* cannot be read: it is no file"):
        read_result(Path(trial.output_dir))
