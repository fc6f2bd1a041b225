"""What is said to be probably better is, on 24 points with 30 seeds each."""

from tests.benchmarks.seeds import N_SEEDS, N_SWEEPS, POINTS, judge, read, share_of_seeds


def test_probably_better_is_right_and_is_said_of_what_is_far_apart() -> None:
    recorded = read()
    assert {len(seeds) for seeds in recorded.nlls.values()} == {N_SEEDS}
    assert len(recorded.nlls) == len(POINTS)
    found = judge(recorded, 64, N_SWEEPS)["all pairs"]
    assert found["probable, right"] > 0.9 * found["said probable"] > 500
    assert found["far apart, said"] > 0.5 * found["far apart"] > 250


def test_the_share_of_seeds_is_what_is_taken_for_it() -> None:
    from sweep.results.certainty import SEED_SHARE

    found = share_of_seeds(recorded=read())
    assert found["the better half"] < SEED_SHARE
    assert abs(found["all points"] - SEED_SHARE) < 0.01
