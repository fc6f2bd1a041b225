"""What a worker does before a trial trains."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from trials.config import TrialConfig
from trials.messages import Ended, Event, Loaded, Reported, Started, Stepped
from trials.worker import TrialThread


def cut(rows: Path) -> None:
    path = rows / "sample.ids.npy"
    path.chmod(0o644)
    with path.open("r+b") as file:  # in place: a running trial has it mapped
        file.truncate(path.stat().st_size - 8)


def test_no_evaluation_on_rows_that_were_changed_meanwhile_is_reported(
    config: Callable[..., TrialConfig], tiny_data: Path, tmp_path: Path
) -> None:
    rows = Path(shutil.copytree(tiny_data, tmp_path / "rows"))
    asked = config(data_dir=str(rows), evaluate_base=True)
    thread = TrialThread(asked.model)
    assert isinstance(heard(thread), Loaded)
    thread.start(0, asked)
    heard(thread)
    assert isinstance(heard(thread), Reported)
    cut(rows)
    thread.answer(None)
    ended = heard(thread)
    assert isinstance(ended, Ended) and ended.result.fault == "rows_changed"
    assert not (Path(asked.output_dir) / "result.json").exists()


def heard(thread: TrialThread) -> Event:
    return thread.events.get(timeout=120)


def test_a_trial_whose_rows_were_changed_is_not_failed_but_lost(
    config: Callable[..., TrialConfig], tiny_data: Path, tmp_path: Path
) -> None:
    rows = Path(shutil.copytree(tiny_data, tmp_path / "rows"))
    cut(rows)
    asked = config(data_dir=str(rows))
    thread = TrialThread(asked.model)
    assert isinstance(heard(thread), Loaded)
    thread.start(0, asked)
    heard(thread)
    ended = heard(thread)
    assert isinstance(ended, Ended)
    assert (ended.result.outcome, ended.result.fault) == ("failed", "rows_changed")
    assert "rows: must hold the rows as prepared, but sample.ids.npy changed since" in str(
        ended.result.reason
    )


def test_what_is_measured_after_a_trial_was_set_aside_is_not_set_aside_too(
    config: Callable[..., TrialConfig],
) -> None:
    asked = config(evaluate_base=True)
    thread = TrialThread(asked.model)
    thread.start(0, asked)
    assert [type(heard(thread)) for _ in range(3)] == [Loaded, Started, Reported]
    thread.stop()
    thread.answer(None)
    ended = heard(thread)
    assert isinstance(ended, Ended) and ended.result.outcome == "interrupted"
    thread.start(1, config(1, measured_rows="eval"))
    heard(thread)
    ended = heard(thread)
    assert isinstance(ended, Ended) and ended.result.outcome == "completed"


def test_a_trial_tells_how_far_it_has_come_at_every_step_that_is_wanted(
    config: Callable[..., TrialConfig],
) -> None:
    asked = config(epochs=2, n_evaluations=1)
    thread = TrialThread(asked.model, step_seconds=0.0)
    thread.start(0, asked)
    said: list[Event] = []
    while not said or not isinstance(said[-1], Ended):
        said.append(heard(thread))
        if isinstance(said[-1], Reported):
            thread.answer(None)
    steps = [event.step for event in said if isinstance(event, Stepped)]
    assert steps == list(range(1, 13))
    assert {event.n_steps for event in said if isinstance(event, Stepped)} == {12}
