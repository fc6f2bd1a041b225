"""Tokenised rows on disk: what is cut, what is counted, what is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trials.data import tokens as data
from trials.data.tokens import TokenRows, TokenSplit


def row(n_prompt: int, n_completion: int, first_id: int = 0) -> TokenSplit:
    """A split of one row."""
    n_tokens = n_prompt + n_completion
    return TokenSplit.of(
        ids=np.arange(first_id, first_id + n_tokens, dtype=np.int32),
        supervised=np.arange(n_tokens) >= n_prompt,
        lengths=np.array([n_tokens]),
    )


@pytest.mark.parametrize(
    ("tokens", "max_length", "expected"),
    [
        (row(3, 2), 5, 2),
        (row(3, 2), 4, 1),
        (row(3, 2), 3, 0),  # nothing of the completion is left
        (row(0, 1), 5, 0),  # the first token is never predicted
        (row(0, 2), 5, 1),
        (row(0, 2), 1, 0),
        (row(4, 0), 5, 0),
        (row(0, 0), 5, 0),
    ],
)
def test_loss_is_where_a_supervised_token_is_predicted(
    tokens: TokenSplit, max_length: int, expected: int
) -> None:
    assert tokens.supervised_tokens(max_length).tolist() == [expected]


@pytest.mark.parametrize("max_length", [1, 2, 4, 9, 100])
def test_supervised_tokens_are_counted_row_by_row(max_length: int) -> None:
    chance = np.random.default_rng(0)
    lengths = chance.integers(0, 9, size=200)
    supervised = chance.random(lengths.sum()) < 0.4
    split = TokenSplit.of(
        ids=np.zeros(lengths.sum(), np.int32), supervised=supervised, lengths=lengths
    )
    rows = np.split(supervised, split.offsets[1:-1])
    expected = [int(each[1:max_length].sum()) for each in rows]
    assert split.supervised_tokens(max_length).tolist() == expected


ROWS = TokenSplit.joined([row(2, 2), row(3, 5, 10), row(6, 2, 20), row(0, 4, 30)])


def test_rows_are_taken_in_the_order_asked_for_and_cut() -> None:
    taken = ROWS.taken([1, 0], 6)
    assert taken.ids.tolist() == [10, 11, 12, 13, 14, 15, 0, 1, 2, 3]
    assert taken.supervised.tolist() == [False] * 3 + [True] * 3 + [False] * 2 + [True] * 2
    assert taken.offsets.tolist() == [0, 6, 10]


def test_what_cutting_does_is_counted() -> None:
    assert data.count(ROWS, 5) == data.SplitCounts(
        rows=4,
        cut=1,  # 3 + 5 tokens; 6 + 2 lose all their completion
        dropped=1,
        tokens=4 + 5 + 4,
        supervised_tokens=2 + 2 + 3,
        longest=8,
        median=8,
    )


def test_a_long_max_length_cuts_nothing() -> None:
    counts = data.count(ROWS, 100)
    assert (counts.cut, counts.dropped, counts.tokens) == (0, 0, 4 + 8 + 8 + 4)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    ROWS.save(tmp_path / "train")
    return tmp_path / "train"


def test_rows_come_back_from_disk_with_labels(written: Path) -> None:
    rows = TokenRows(written, 100)
    assert len(rows) == 4
    assert rows[1]["input_ids"].tolist() == [10, 11, 12, 13, 14, 15, 16, 17]
    assert rows[1]["labels"].tolist() == [-100, -100, -100, 13, 14, 15, 16, 17]


def test_rows_are_cut_and_those_without_loss_left_out(written: Path) -> None:
    rows = TokenRows(written, 5)
    assert rows.lengths.tolist() == [4, 5, 4]
    assert [rows[i]["input_ids"][0] for i in range(len(rows))] == [0, 10, 30]
    assert rows[1]["labels"].tolist() == [-100, -100, -100, 13, 14]


@pytest.mark.parametrize("max_length", [2, 3, 5, 7, 8, 100])
def test_what_is_counted_is_what_is_trained_on(written: Path, max_length: int) -> None:
    rows, counts = TokenRows(written, max_length), data.count(ROWS, max_length)
    labels = [rows[i]["labels"][1:] for i in range(len(rows))]
    assert len(rows) == counts.rows - counts.dropped
    assert sum(rows.lengths) == counts.tokens
    assert sum((each != data.IGNORED).sum() for each in labels) == counts.supervised_tokens


def test_a_row_of_no_tokens_is_left_out(tmp_path: Path) -> None:
    TokenSplit.joined([row(1, 1), row(0, 0), row(1, 2)]).save(tmp_path / "rows")
    assert TokenRows(tmp_path / "rows", 10).lengths.tolist() == [2, 3]


def test_saving_again_leaves_the_rows_that_a_worker_has_mapped(written: Path) -> None:
    rows = TokenRows(written, 100)
    row(1, 1, 50).save(written)
    assert rows[0]["input_ids"].tolist() == [0, 1, 2, 3]
    assert TokenRows(written, 100)[0]["input_ids"].tolist() == [50, 51]


@pytest.mark.parametrize(
    ("n_eval_rows", "train_tokens", "smallest_epochs", "at_most", "expected"),
    [
        (1000, 10_000_000, 1.0, 256, 256),  # training is long: the limit
        (100, 10_000_000, 1.0, 256, 100),  # fewer rows than that
        (1000, 1_000_000, 1.0, 256, 150),  # 0.15 / 0.5 x 1e6 tokens / 20 times / 100 a row
        (1000, 1_000_000, 0.5, 256, 75),  # half an epoch pays for half of it
        (1000, 1_000, 1.0, 256, 32),  # never below the least that ranks anything
        (10, 1_000, 1.0, 256, 10),
        (1000, 1_000, 1.0, 8, 8),  # unless asked for
    ],
)
def test_the_sample_is_as_large_as_its_cost_allows(
    n_eval_rows: int, train_tokens: int, smallest_epochs: float, at_most: int, expected: int
) -> None:
    n_rows = data.sample_size(
        n_eval_rows=n_eval_rows,
        eval_tokens=100 * n_eval_rows,
        train_tokens=train_tokens,
        smallest_epochs=smallest_epochs,
        n_evaluations=20,
        at_most=at_most,
    )
    assert n_rows == expected
