from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sweep.space.loading import load_space
from sweep.space.space import Space
from sweep.space.usual_points import parameters_in, published_rates
from sweep.storage.patient import storage_url
from sweep.study.next_trial import View, enqueue_starts, first_trials
from sweep.study.opening import open_study

MakeSpace = Callable[..., Space]
RATES = "learning_rate: {min: 1e-5, max: 1e-2, log: true}"


@pytest.fixture
def space(tmp_path: Path) -> MakeSpace:
    """Makes a space of a search and a base model."""
    (tmp_path / "rows.jsonl").write_text("{}")

    def make(search: str, *more: str, model: str = "org/model") -> Space:
        path = tmp_path / "space.yaml"
        lines = [f"base_model: {model}", "data: {train: rows.jsonl, eval: 0.1}"]
        path.write_text("\n".join([*lines, f"search: {{{search}}}", *more]))
        return load_space(path)

    return make


def rates(space: Space) -> list[object]:
    return [start.values["learning_rate"] for start in space.starts]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("smollm2-135m", 135e6),
        ("meta-llama/Llama-3.2-1B-Instruct", 1e9),
        ("Qwen/Qwen2.5-0.5B", 0.5e9),
        ("EleutherAI/pythia-1.4b", 1.4e9),
        ("models/llama_8b/", 8e9),
        ("meta-llama/Llama-3.3-70B-Instruct", 70e9),
        ("unsloth/gemma-2-9b-bnb-4bit", 9e9),
        ("microsoft/phi-4", None),
        ("mistralai/Mixtral-8x7B-v0.1", None),
        ("70b/model", None),
        ("unsloth/mistral-bnb-4bit", None),
    ],
)
def test_a_name_may_say_how_large_a_model_is(name: str, size: float | None) -> None:
    assert parameters_in(name) == size


@pytest.mark.parametrize(
    ("model", "first"),
    [
        ("org/model", (3e-4, 1e-3)),
        ("org/model-8b", (3e-4, 1e-3)),
        ("org/model-1.7b", (1e-3, 3e-4)),
        ("smollm2-135m", (1e-3, 3e-4)),
        ("org/model-70b", (3e-4,)),  # at 1e-3 one of that size diverged with every rank
    ],
)
def test_the_rate_that_is_published_for_models_of_that_size_comes_first(
    model: str, first: tuple[float, ...]
) -> None:
    assert tuple(published_rates(model)) == first


def test_a_sweep_begins_with_the_known_good_point_and_two_published_rates(space: MakeSpace) -> None:
    searched = space(f"{RATES}, rank: [8, 16]", model="org/model-1b")
    beside = {"rank": 16, "alpha": 16.0, "epochs": 1}
    wanted = [{**beside, "learning_rate": rate} for rate in (2e-4, 1e-3, 3e-4)]
    assert [start.values for start in searched.starts] == wanted
    assert [start.origin for start in searched.starts] == [
        "known-good",
        "published rate 0.001",
        "published rate 0.0003",
    ]


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ("rank: [8, 16]", [2e-4]),
        ("learning_rate: {min: 1e-6, max: 1e-5}", [1e-5]),
        ("learning_rate: {min: 1e-5, max: 5e-4}", [2e-4, 3e-4, 5e-4]),
        ("learning_rate: [1e-4, 2e-4, 9e-4]", [2e-4, 9e-4]),
        ("learning_rate: {min: 2e-3, max: 1e-2, log: true}", [2e-3]),
    ],
)
def test_published_rates_are_moved_into_the_space_and_none_stands_twice(
    space: MakeSpace, search: str, expected: list[float]
) -> None:
    assert rates(space(search)) == expected


def test_points_of_the_file_stand_in_place_of_the_usual_ones(space: MakeSpace) -> None:
    searched = space(RATES, "start_with: [{learning_rate: 5e-3}]")
    assert rates(searched) == [5e-3]
    assert [start.origin for start in searched.starts] == ["start_with"]


def test_usual_points_that_a_process_left_unqueued_come_and_no_more_once_a_trial_began(
    space: MakeSpace,
) -> None:
    searched = space(f"{RATES}, rank: [8, 16]")
    study = open_study(searched, storage_url(searched.folder))
    study.enqueue_trial(dict(searched.starts[0].values))  # then the process died
    assert len(enqueue_starts(study, searched)) == 2
    study.tell(View(study, searched).next_trial(), 1.0)
    assert enqueue_starts(study, space(f"{RATES}, rank: [32, 64]")) == []
    assert len(study.trials) == 3


def test_a_check_says_where_the_first_trials_come_from(space: MakeSpace) -> None:
    searched = space(f"{RATES}, dropout: {{min: 0, max: 1e-1}}")
    assert [(origin, point["learning_rate"]) for origin, point in first_trials(searched)] == [
        ("known-good", 2e-4),
        ("published rate 0.0003", 3e-4),
        ("published rate 0.001", 1e-3),
    ]
    assert all(0 <= point["dropout"] <= 0.1 for _, point in first_trials(searched))
    ((origin, _),) = first_trials(space(RATES, "start_with: []", "sampler: qmc"))
    assert origin == "drawn by qmc"
