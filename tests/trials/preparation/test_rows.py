"""What is said of reading the rows, and what only a chat template renders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trials.config import DataError
from trials.data.examples import Reading
from trials.preparation.rows import Splits, check_plain, read_splits

TURNS = [{"role": "user", "content": "oslo"}, {"role": "assistant", "content": "snow"}]


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(
    train: str | list[str],
    eval_: str | float | list[str],
    *,
    test: str | float | None = None,
    chat: bool | None = None,
    **keys: Any,
) -> tuple[Splits, dict[str, Any]]:
    return read_splits(train, eval_, test, Reading(**keys), chat=chat, seed=0)


def test_the_report_has_the_shares_what_is_unread_and_what_is_left_out(tmp_path: Path) -> None:
    rows = [{"prompt": str(n), "completion": "a" * (n > 0), "id": n} for n in range(4)]
    a, b = write(tmp_path / "a.jsonl", *rows), write(tmp_path / "b.jsonl", {"text": "b", "date": 1})
    splits, told = read([a, b], 0.5, skip_bad_rows=True, ignore=["idd"])
    assert (len(splits["train"]), len(splits["eval"])) == (2, 2)
    assert told["files"] == {
        "train": [{"name": "a.jsonl", "rows": 3}, {"name": "b.jsonl", "rows": 1}]
    }
    assert told["unread"] == {"date": 1, "id": 4}
    [skipped] = told["skipped"]
    assert (skipped["key"], skipped["rows"]) == ("data.train", 1)
    [note] = told["reading_notes"]
    assert "is called `idd`; did you mean `id`?" in note


def test_equal_rows_are_found_over_the_union_of_files(tmp_path: Path) -> None:
    a, b = ({"text": name} for name in "ab")
    train = [write(tmp_path / "a.jsonl", a), write(tmp_path / "b.jsonl", b)]
    with pytest.raises(DataError, match=r"c.jsonl line 1 equals b.jsonl line 1"):
        read(train, [write(tmp_path / "c.jsonl", b)])


def test_test_rows_that_are_train_or_eval_rows_are_refused_all_at_once(tmp_path: Path) -> None:
    a, b, c, d = ({"text": name} for name in "abcd")
    train, eval_ = write(tmp_path / "train.jsonl", a, b), write(tmp_path / "eval.jsonl", c)
    with pytest.raises(DataError) as refused:
        read(train, eval_, test=write(tmp_path / "test.jsonl", d, c, a))
    lines = str(refused.value).splitlines()
    assert lines[0] == (
        "data.test: 1 of its 3 rows are also train rows, so their loss would reward memorising "
        "them."
    )
    assert lines[1] == "  test.jsonl line 3 equals train.jsonl line 1"
    assert "data.test: 1 of its 3 rows are also eval rows" in lines[3]
    assert lines[4] == "  test.jsonl line 2 equals eval.jsonl line 1"
    splits, told = read(train, eval_, test=write(tmp_path / "test.jsonl", d))
    assert [row.text for row in splits["test"]] == ["d"]
    assert told["files"]["test"] == [{"name": "test.jsonl", "rows": 1}]


def test_of_two_shares_each_is_that_of_all_rows_and_eval_rows_stay(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", *({"text": f"row {n}"} for n in range(100)))
    splits, _ = read(train, 0.2, test=0.3)
    assert {name: len(rows) for name, rows in splits.items()} == {
        "train": 50,
        "eval": 20,
        "test": 30,
    }
    assert splits["eval"] == read(train, 0.2)[0]["eval"]
    assert len({row.text for rows in splits.values() for row in rows}) == 100


def test_chat_true_needs_prompts_in_every_file(tmp_path: Path) -> None:
    pairs = write(tmp_path / "a.jsonl", {"prompt": "a", "completion": "b"})
    texts = write(tmp_path / "b.jsonl", {"text": "b"})
    with pytest.raises(DataError, match="found rows of one text each"):
        read([pairs, texts], 0.5, chat=True)


def test_chat_false_refuses_a_history_among_pairs(tmp_path: Path) -> None:
    row = {"instruction": "a", "output": "b"}
    source = write(tmp_path / "a.jsonl", row, row | {"history": [["q", "a"]]})
    with pytest.raises(DataError, match=r"1 of 2 rows are conversations .* a history"):
        read(source, 0.5, chat=False)


@pytest.mark.parametrize(
    ("column", "mend"),
    [
        ({"system": "Be brief."}, r"data.ignore: \[system\]"),
        ({"tools": [{"name": "f"}]}, r"data.ignore: \[tools\]"),
    ],
)
def test_what_only_a_template_renders_is_refused_without_one(
    tmp_path: Path, column: dict[str, object], mend: str
) -> None:
    rows = ({"prompt": p, "completion": "b", **column} for p in "ab")
    splits, _ = read(write(tmp_path / "a.jsonl", *rows), 0.5)
    check_plain(splits, chat=True)
    with pytest.raises(DataError, match=f"which 2 rows have, .*{mend}"):
        check_plain(splits, chat=False)


def test_turns_keep_their_system_turn_without_chat(tmp_path: Path) -> None:
    rows = ({"messages": TURNS, "system": name} for name in "ab")
    splits, _ = read(write(tmp_path / "a.jsonl", *rows), 0.5)
    check_plain(splits, chat=False)
