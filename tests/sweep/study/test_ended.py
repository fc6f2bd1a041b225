"""What a study remembers of trials that have ended."""

from __future__ import annotations

import pytest

from sweep.study.ended import as_ranges, from_ranges


@pytest.mark.parametrize(
    ("numbers", "ranges"),
    [([], []), ([3, 1, 2], [[1, 3]]), ([0, 5, 6, 9], [[0, 0], [5, 6], [9, 9]])],
)
def test_numbers_that_follow_each_other_are_a_range(
    numbers: list[int], ranges: list[list[int]]
) -> None:
    assert as_ranges(numbers) == ranges
    assert from_ranges(ranges) == set(numbers)


def test_single_numbers_of_an_older_study_are_read() -> None:
    assert from_ranges([0, 1, [4, 5]]) == {0, 1, 4, 5}
