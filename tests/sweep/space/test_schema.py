"""`sweep schema`: editors accept what the program accepts, and know every key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from sweep.space.hyperparameters import HYPERPARAMETERS
from sweep.space.schema import space_schema
from sweep.space.settings import Settings

SPACES = sorted((Path(__file__).parents[3] / "search_spaces").glob("*.yaml"))


def problems(space: dict[str, Any]) -> list[str]:
    validator = jsonschema.Draft7Validator(space_schema())
    return [error.message for error in validator.iter_errors(space)]


def minimal(**changes: Any) -> dict[str, Any]:
    data = {"train": "a.jsonl", "eval": 0.1}
    return {"base_model": "org/model", "data": data, "search": {"rank": [8, 16]}, **changes}


def test_it_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(space_schema())


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.name)
def test_the_spaces_of_this_repository_follow_it(path: Path) -> None:
    assert problems(YAML(typ="safe", pure=True).load(path.read_text())) == []


def described(properties: dict[str, Any], place: str = "") -> Iterator[tuple[str, bool]]:
    for key, value in properties.items():
        yield f"{place}{key}", bool(value.get("description"))


def test_every_key_has_a_description() -> None:
    schema = space_schema()
    found = dict(described(schema["properties"]))
    found |= dict(described(schema["properties"]["search"]["properties"], "search."))
    for name, definition in schema["definitions"].items():
        found |= dict(described(definition["properties"], f"{name}."))
    assert [key for key, has_description in found.items() if not has_description] == []
    assert {f.alias or n for n, f in Settings.model_fields.items()} | {
        "search",
        "start_with",
    } <= set(found)
    assert {f"search.{name}" for name in HYPERPARAMETERS} <= set(found)


@pytest.mark.parametrize(
    "changes",
    [
        {"search": {"alpha": {"times_rank": [1, 2]}, "learning_rate": {"min": 1e-5, "max": 1e-3}}},
        {"search": {"lr_scheduler": ["cosine", "linear"], "use_dora": False}},
        {"pruning": {"overfit": False, "outclassed": {"pruner": "median"}}},
        {"gpus_per_trial": 0.5, "micro_batch_size": "auto"},
        {"start_with": [{"rank": 16, "learning_rate": 2e-4}]},
        {"start_from": "quickstart", "sampler": "qmc"},
        {"start_from": ["quickstart", "llama3-1b"]},
    ],
)
def test_what_the_program_takes_is_right(changes: dict[str, Any]) -> None:
    assert problems(minimal(**changes)) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"serach": {}},
        {"search": {"rnk": 8}},
        {"search": {"rank": 0}},
        {"search": {"rank": {"min": 8}}},
        {"search": {"lr_scheduler": "cosin"}},
        {"pruning": {"diverged": False}},
        {"budget": {"trials": 0}},
        {"quantization": "fp4"},
        {"start_from": "../quickstart"},
    ],
)
def test_what_the_program_refuses_is_wrong(changes: dict[str, Any]) -> None:
    assert problems(minimal(**changes)) != []
