"""Which rows a step trains on: the same whatever the micro-batch, and without walking to it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from trials.data.batches import (
    EffectiveBatches,
    collate,
    micro_batches,
    micro_batches_by_tokens,
    supervised_tokens,
)
from trials.data.tokens import TokenRows, TokenSplit


@pytest.fixture
def lengths() -> np.ndarray:
    chance = random.Random(0)
    return np.array([chance.randint(1, 40) for _ in range(50)])


def test_an_epoch_reads_each_row_once_and_its_last_batch_is_what_is_left(
    lengths: np.ndarray,
) -> None:
    batches = EffectiveBatches(lengths, size=8, seed=0)
    epoch = [batches[step] for step in range(batches.steps_per_epoch)]
    assert sorted(np.concatenate(epoch)) == list(range(50))
    assert [len(rows) for rows in epoch] == [8] * 6 + [2]


@pytest.mark.parametrize(("epochs", "steps"), [(2, 14), (0.5, 4), (0.01, 1)])
def test_the_last_batch_of_an_epoch_counts_as_a_step_and_a_run_has_at_least_one(
    lengths: np.ndarray, epochs: float, steps: int
) -> None:
    assert EffectiveBatches(lengths, size=8, seed=0).n_steps(epochs) == steps


def test_every_epoch_has_an_order_of_its_own(lengths: np.ndarray) -> None:
    batches = EffectiveBatches(lengths, size=8, seed=0)
    assert set(batches[0]) != set(batches[batches.steps_per_epoch])


def test_a_steps_rows_do_not_depend_on_the_steps_before(lengths: np.ndarray) -> None:
    walked, jumped = (EffectiveBatches(lengths, size=8, seed=3) for _ in range(2))
    for step in range(17):
        last = walked[step]
    assert (jumped[16] == last).all()


def test_inside_an_effective_batch_the_longest_rows_come_first(lengths: np.ndarray) -> None:
    batches = EffectiveBatches(lengths, size=8, seed=0)
    for step in range(batches.steps_per_epoch):
        assert (np.diff(lengths[batches[step]]) <= 0).all()


def test_equal_seeds_shuffle_equally(lengths: np.ndarray) -> None:
    one, same, other = (EffectiveBatches(lengths, size=8, seed=s)[0] for s in (1, 1, 2))
    assert (one == same).all()
    assert set(one) != set(other)


@pytest.mark.parametrize(("size", "expected"), [(8, [8, 2]), (4, [4, 4, 2]), (1, [1] * 10)])
def test_micro_batches_cut_a_step_in_its_order(size: int, expected: list[int]) -> None:
    rows = np.arange(10)
    cut = micro_batches(rows, size)
    assert [len(part) for part in cut] == expected
    assert (np.concatenate(cut) == rows).all()


@pytest.mark.parametrize(
    ("tokens", "most_rows", "expected"),
    [
        (1024, None, [1, 6, 6, 3]),  # one long row does not make 16 passes of them
        (1024, 4, [1, 4, 4, 4, 3]),
        (3000, None, [2, 14]),  # 1,024 and 150: what is padded counts
        (16 * 1024, None, [16]),
        (100, None, [1] * 16),  # a row that is longer goes alone
    ],
)
def test_micro_batches_hold_so_many_tokens(
    tokens: int, most_rows: int | None, expected: list[int]
) -> None:
    lengths = np.array([150] * 9 + [1024] + [150] * 6)
    rows = np.argsort(-lengths, kind="stable")
    cut = micro_batches_by_tokens(rows, lengths, tokens=tokens, most_rows=most_rows)
    assert [len(part) for part in cut] == expected
    assert (np.concatenate(cut) == rows).all()


def test_rows_are_padded_on_the_right_and_padding_carries_no_loss(tmp_path: Path) -> None:
    two = TokenSplit.of(
        ids=np.array([5, 6, 7, 8, 9], np.int32),
        supervised=np.array([False, True, True, True, True]),
        lengths=np.array([3, 2]),
    )
    two.save(tmp_path / "two")
    read = TokenRows(tmp_path / "two", 10)
    batch = collate([read[0], read[1]])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [8, 9, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert supervised_tokens(batch) == 3  # the first token of a row is never predicted
