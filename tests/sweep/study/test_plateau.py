"""`stop_when_flat`: no improvement beyond noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sweep.study.plateau import EndedCurve, Flatness


def trial(best: float | None, *late: float) -> EndedCurve:
    start = [3.0, 2.8, 2.6, 2.4, 2.3, 2.2]
    return EndedCurve(best, [*start, *late])


def after(ended: Sequence[EndedCurve]) -> Flatness:
    flatness = Flatness()
    for curve in ended:
        flatness.add(curve)
    return flatness


def is_flat(ended: Sequence[EndedCurve], n_trials: int) -> bool:
    return after(ended).is_flat(n_trials)


def test_as_many_trials_must_have_ended_since() -> None:
    ended = [trial(1.0, 1.0, 1.0)] * 3
    assert not is_flat(ended, 3)
    assert is_flat([*ended, trial(1.0, 1.0, 1.0)], 3)


def test_a_better_trial_begins_the_count_anew() -> None:
    worse, better = trial(2.0, 2.0, 2.0), trial(1.0, 1.0, 1.0)
    assert not is_flat([worse, worse, better, worse], 2)
    assert is_flat([worse, worse, better, worse, worse], 2)


def test_an_improvement_within_noise_is_none() -> None:
    noisy = [trial(2.0, 2.00, 2.02), trial(2.1, 2.10, 2.12)]
    assert math.isclose(after(noisy).noise, 0.02)
    assert is_flat([*noisy, trial(1.99, 1.99, 2.01)], 1)
    assert not is_flat([*noisy, trial(1.97, 1.97, 1.99)], 1)


def test_trials_without_a_value_are_no_improvement_and_no_noise() -> None:
    failed = trial(None, math.nan, math.inf)
    assert after([failed]).noise == 0.0
    assert not is_flat([failed] * 5, 2)
    assert is_flat([trial(2.0, 2.0, 2.0), failed, failed], 2)
