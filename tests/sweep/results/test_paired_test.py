"""Whether a difference is chance."""

from __future__ import annotations

import pytest

from sweep.results.paired_test import difference, mean_of


def test_the_mean_has_the_standard_error_of_n_minus_one() -> None:
    mean = mean_of({1: 1.0, 2: 2.0, 3: 3.0})
    assert (mean.n, mean.mean) == (3, 2.0)
    assert mean.standard_error == pytest.approx(1 / 3**0.5)


def test_one_seed_says_nothing_of_noise() -> None:
    assert mean_of({1: 1.0}).standard_error is None
    alone = difference({1: 2.0}, {1: 1.0})
    assert alone is not None
    assert (alone.mean, alone.half_width, alone.is_beyond_noise) == (1.0, None, False)


def test_what_a_seed_does_to_both_cancels() -> None:
    """The seeds differ by 1 nat, the configurations by 0.01 at each of them."""
    one, other = {1: 1.01, 2: 2.012, 3: 3.008}, {1: 1.0, 2: 2.0, 3: 3.0}
    apart = difference(one, other)
    assert apart is not None
    assert apart.mean == pytest.approx(0.01)
    assert apart.is_beyond_noise
    # t(0.975, 2) = 4.303 (Student's table), s = 0.002
    assert apart.half_width == pytest.approx(4.3027 * 0.002 / 3**0.5, rel=1e-4)


def test_only_seeds_of_both_are_compared() -> None:
    apart = difference({1: 2.0, 2: 3.0}, {2: 1.0, 3: 9.0})
    assert apart is not None
    assert (apart.n, apart.mean) == (1, 2.0)
    assert difference({1: 1.0}, {2: 1.0}) is None


def test_a_difference_within_the_interval_is_noise() -> None:
    apart = difference({1: 1.0, 2: 1.3, 3: 0.8}, {1: 1.1, 2: 1.0, 3: 1.0})
    assert apart is not None
    assert not apart.is_beyond_noise
