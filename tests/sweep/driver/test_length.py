"""How long a sweep may take, from what a token took, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweep.driver.length import Length, cost_of, in_words
from sweep.driver.preparation import Check, prepare_data
from sweep.errors import StudyError
from sweep.space.loading import load_space
from sweep.space.space import Space
from sweep.workers.paces import Pace
from tests import tiny
from tests.faults.space_mutants import REPORT

ROWS: dict[str, Any] = {
    "train": {"64": {"rows": 100, "dropped": 0, "tokens": 1000}},
    "eval": {"rows": 40, "dropped": 0},
    "sample_rows": 20,
    "evaluation_tokens": 10.0,
}
PACES = [Pace(0.5, 1.0), Pace(1.5, 3.0)]
"""On average a second a token, 20 s an evaluation."""


def space_of(folder: Path, **settings: str) -> Space:
    (folder / "rows.jsonl").write_text("{}")
    file = folder / "space.yaml"
    given = {
        "base_model": "none",
        "data": "{train: rows.jsonl, eval: 0.1, max_length: 64}",
        "search": "{learning_rate: {min: 1e-4, max: 1e-2, log: true}, epochs: 2}",
        "budget": "{trials: 10}",
        "final_evaluation": "false",
        **settings,
    }
    file.write_text("".join(f"{key}: {value}\n" for key, value in given.items()))
    return load_space(file)


def words(space: Space, n_slots: int = 1) -> str:
    return in_words(space, cost_of(space, ROWS, PACES), n_slots=n_slots, n_paces=2)


def test_the_ends_are_what_rungs_let_through_and_all_to_their_end(tmp_path: Path) -> None:
    space = space_of(tmp_path)
    cost = cost_of(space, ROWS, PACES)
    assert cost.trial == 2 * 1000 + 14 * 20  # 7 steps an epoch: fewer than evaluate.times
    assert cost.seconds(10) == pytest.approx([22800 * (0.15 + 0.85 / 3), 22800])
    assert words(space) == (
        "Length: about 2 h 44 min to 6 h 20 min, 2.74 to 6.33 GPU hours: if 1 in 3 goes on from "
        "where they are compared, and if all trials run to their end, of 2 epochs on average; by "
        "what a token took 2 trials of this kind here."
    )


def test_one_epoch_is_no_epochs(tmp_path: Path) -> None:
    search = "{learning_rate: {min: 1e-4, max: 1e-2, log: true}, epochs: 1}"
    assert ", of 1 epoch on average;" in words(space_of(tmp_path, search=search))


def test_several_at_once_take_less_time_and_the_same_gpu_hours(tmp_path: Path) -> None:
    space = space_of(tmp_path, pruning="{outclassed: false}")
    assert words(space, 2).startswith(
        "Length: about 3 h 10 min with 2 trials at once, 6.33 GPU hours: if all trials run"
    )


def test_a_price_is_told_beside_gpu_hours(tmp_path: Path) -> None:
    space = space_of(tmp_path, budget="{trials: 10, price_per_gpu_hour: 2.5}")
    assert "2.74 to 6.33 GPU hours (6.86 to 15.83 at 2.5 an hour)" in words(space)


def test_a_price_alone_is_no_budget(tmp_path: Path) -> None:
    budget = space_of(tmp_path, budget="{price_per_gpu_hour: 2.5}").settings.budget
    assert (budget.trials, budget.price_per_gpu_hour) == (24, 2.5)


def test_hours_cut_it_and_without_a_number_of_trials_it_is_what_there_is_room_for(
    tmp_path: Path,
) -> None:
    both = space_of(tmp_path, budget="{trials: 10, hours: 3}")
    assert "about 2 h 44 min to 3 h 00 min, 2.74 to 3.00 GPU hours" in words(both)
    hours = space_of(tmp_path, budget="{gpu_hours: 6, stop_when_flat: 5}")
    said = words(hours, 2)
    assert "room for about 9 to 22 trials in 3 h 00 min with 2 trials at once, 6.00 GPU" in said
    assert "stop_when_flat may end it sooner" in said


def test_trials_that_are_tried_first_have_their_own_epochs(tmp_path: Path) -> None:
    space = space_of(
        tmp_path,
        search="{learning_rate: {min: 1e-4, max: 1e-2, log: true}, epochs: [1, 5]}",
        budget="{trials: 4}",
        start_with="[{epochs: 5}]",
    )
    cost = cost_of(space, ROWS, PACES)
    assert (cost.epochs, cost.least_share) == (3.5, 1.0)  # four are too few to be compared


def test_the_final_evaluation_counts(tmp_path: Path) -> None:
    space = space_of(tmp_path, final_evaluation="true")
    assert cost_of(space, ROWS, PACES).final == 6 * 20 * 2


def test_what_is_not_known_says_how_it_could_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    length = Length(space_of(tmp_path), on_gpus=False, workers=1)
    found = Check(tmp_path, REPORT, on_gpus=False)
    assert "To tell, take ten steps: sweep check --measure." in length.in_words(found)


def test_a_cluster_cannot_be_measured_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://there:10001")
    length = Length(space_of(tmp_path), on_gpus=True, workers=None)
    with pytest.raises(StudyError, match="RAY_ADDRESS names a cluster: ray://there:10001"):
        length.see_place()


def test_ten_steps_of_a_real_worker_tell_it(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write_rows(tmp_path / "train.jsonl", 24, seed=2)
    tiny.write_rows(tmp_path / "eval.jsonl", 8, seed=3)
    data = "{train: train.jsonl, eval: eval.jsonl, max_length: 64}"
    space = space_of(tmp_path, base_model=str(tiny_base), data=data, quantization="none")
    said: list[str] = []
    found = prepare_data(space, tmp_path / "data", on_gpus=False, say=said.append)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    length = Length(space, on_gpus=False, workers=2)
    length.measure(found, said.append)
    assert "by what a token took 1 trial of this kind here" in length.in_words(found)
