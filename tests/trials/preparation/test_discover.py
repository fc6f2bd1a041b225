"""What is found of a file of rows: its form, eval rows beside it, what the model lacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from trials.config import DataError
from trials.preparation.discover import discover
from trials.preparation.prepare import Request

PAIRS = tiny.rows(40, seed=2)
TURNS = [
    [{"role": "user", "content": r["prompt"]}, {"role": "assistant", "content": r["completion"]}]
    for r in PAIRS
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def found(train: Path, base: Path, tmp_path: Path) -> dict[str, Any]:
    """The keys of `data` that are found."""
    keys: dict[str, Any] = discover(request_of(train, base, tmp_path))["found"]["keys"]
    return keys


def request_of(train: Path, base: Path, tmp_path: Path) -> Request:
    return tiny.request(
        base,
        tmp_path / "prepared",
        train=str(train),
        eval=0.1,
        max_lengths=[4096],
        sample_rows=32,
        smallest_batch=4,
        micro_batch_size=4,
    )


@pytest.mark.parametrize(
    ("rows", "keys"),
    [
        (PAIRS, {}),
        ([{"text": row["completion"]} for row in PAIRS], {}),
        ([{"messages": turns} for turns in TURNS], {"chat_template": "chatml"}),
        (
            [{"dialogue": turns} for turns in TURNS],
            {"columns": {"messages": "dialogue"}, "chat_template": "chatml"},
        ),
        (
            [{"question": r["prompt"], "context": "a", "answer": r["completion"]} for r in PAIRS],
            {"columns": {"instruction": "question", "input": "context", "output": "answer"}},
        ),
        (
            [{"prompt": r["prompt"], "chosen": r["completion"], "rejected": "b"} for r in PAIRS],
            {"columns": {"completion": "chosen"}, "ignore": ["rejected"]},
        ),
        ([*PAIRS, {"prompt": "a", "completion": ""}], {"skip_bad_rows": True}),
    ],
)
def test_only_what_a_form_needs_is_set(
    tiny_base: Path, tmp_path: Path, rows: list[dict[str, Any]], keys: dict[str, Any]
) -> None:
    keys_found = found(write(tmp_path / "train.jsonl", rows), tiny_base, tmp_path)
    assert keys_found.pop("max_length") % 64 == 0
    assert keys_found == {"eval": 0.3, **keys}


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["train.jsonl", "test.jsonl", "valid.jsonl"], "valid.jsonl"),
        (["notes_train.jsonl", "notes_dev.jsonl", "mails_dev.jsonl"], "notes_dev.jsonl"),
        (["notes.jsonl", "eval.jsonl"], "eval.jsonl"),
        (["train.jsonl", "eval.json"], 0.3),
    ],
)
def test_eval_rows_are_those_of_the_file_that_is_named_so(
    tiny_base: Path, tmp_path: Path, names: list[str], taken: object
) -> None:
    for seed, name in enumerate(names, 2):
        write(tmp_path / name, tiny.rows(40, seed=seed))
    assert found(tmp_path / names[0], tiny_base, tmp_path)["eval"] == taken


@pytest.mark.parametrize("names", [["test.jsonl"], ["test.jsonl", "eval.jsonl"]])
def test_a_file_of_test_rows_decides_nothing(
    tiny_base: Path, tmp_path: Path, names: list[str]
) -> None:
    train = write(tmp_path / "train.jsonl", tiny.rows(40, seed=1))
    for seed, name in enumerate(names, 2):
        write(tmp_path / name, tiny.rows(40, seed=seed))
    keys = found(train, tiny_base, tmp_path)
    assert (keys["eval"], keys["test"]) == ("eval.jsonl" if names[1:] else 0.3, "test.jsonl")


def test_test_rows_that_are_eval_rows_are_not_taken(tiny_base: Path, tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", tiny.rows(40, seed=1))
    for name in ("eval.jsonl", "test.jsonl"):
        write(tmp_path / name, tiny.rows(40, seed=2))
    assert "test" not in found(train, tiny_base, tmp_path)


@pytest.mark.parametrize("rows", [PAIRS[:1], [{"text": "a"}]])
def test_eval_rows_that_are_train_rows_or_of_another_form_are_not_taken(
    tiny_base: Path, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    write(tmp_path / "eval.jsonl", rows)
    assert found(write(tmp_path / "train.jsonl", PAIRS), tiny_base, tmp_path)["eval"] == 0.3


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{**row, "label": True} for row in PAIRS], "data.ignore: "),
        ([{"a": "b", "c": "d"}], "Say which column is which"),
        ([*PAIRS[:9], *[{"prompt": "a", "completion": ""}] * 20], "must not be empty"),
    ],
)
def test_what_cannot_be_told_is_refused_in_the_words_of_the_reader(
    tiny_base: Path, tmp_path: Path, rows: list[dict[str, Any]], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        found(write(tmp_path / "train.jsonl", rows), tiny_base, tmp_path)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"text": "a"}], "valid.jsonl has plain texts, unlike the train rows"),
        ([{"a": "b"}], "valid.jsonl cannot be read as the train rows are"),
    ],
)
def test_a_file_that_is_not_taken_for_eval_rows_is_told(
    tiny_base: Path, tmp_path: Path, rows: list[dict[str, Any]], words: str
) -> None:
    write(tmp_path / "valid.jsonl", rows)
    train = write(tmp_path / "train.jsonl", PAIRS)
    why = discover(request_of(train, tiny_base, tmp_path))["found"]["why"]["eval"]
    assert words in why
