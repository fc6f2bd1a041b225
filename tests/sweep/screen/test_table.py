"""Curves in a few characters."""

from __future__ import annotations

import math

import pytest

from sweep.screen.table import sparkline


@pytest.mark.parametrize(
    ("losses", "shown"),
    [
        ([], ""),
        ([1.5], "▁"),
        ([2.0, 2.0], "▁▁"),
        ([3.0, 2.0, 1.0], "█▅▁"),
        ([1.0, math.nan, 2.0], "▁×█"),
        ([math.nan, math.inf], "××"),
    ],
)
def test_a_curve_goes_from_its_lowest_to_its_highest(losses: list[float], shown: str) -> None:
    assert sparkline(losses, 20) == shown


def test_a_late_rise_shows_although_the_beginning_was_far_above() -> None:
    assert sparkline([9.0, 3.0, 2.0, 1.9, 1.8, 1.9, 2.0], 20) == "██▃▂▁▂▃"


def test_a_long_curve_is_thinned_and_ends_with_its_latest_value() -> None:
    losses = [float(n) for n in range(100, 0, -1)]
    assert sparkline(losses, 8)[-1] == "▁"
    assert len(sparkline(losses, 8)) == 8
    assert sparkline([*losses, 101.0], 8)[-1] == "█"
