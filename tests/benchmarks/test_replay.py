"""The recorded landscape, replayed: the sweep's own parts over it, in milliseconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.replay import LANDSCAPE, START_SECONDS, Landscape, Run, read_landscapes
from tests.benchmarks.simulator import Case, simulate
from tests.sweep.study.test_sweep import point


@pytest.fixture(scope="module")
def recorded() -> Landscape:
    return read_landscapes(LANDSCAPE)["cosine", 0]


def test_the_landscape_is_whole(recorded: Landscape) -> None:
    assert len(recorded.runs) == 162
    for run in recorded.runs.values():
        assert run.points[0].index == 0
        assert run.points[-1].index == 20
        assert list(run.seconds) == sorted(run.seconds)


def flat(loss: float) -> Run:
    """Four evaluations, a second each."""
    points = [point(index, loss, 2.0 - index / 10) for index in range(5)]
    return Run(tuple(points), tuple(float(index) for index in range(5)))


@pytest.mark.parametrize("n_gpus", [1, 2])
def test_all_gpus_count_from_the_beginning(tmp_path: Path, n_gpus: int) -> None:
    runs = {(8, rate, 1, 8): flat(1.0 + rate) for rate in (0.1, 0.2, 0.3, 0.4)}
    landscape = Landscape(runs)
    found = simulate(Case("winner", "grid", "none", n_gpus, 0), landscape, tmp_path)
    assert found.has_winner
    assert (found.n_trials, found.best) == (4, 1.1)
    assert found.gpu_seconds == pytest.approx(landscape.gpu_seconds)
    assert landscape.gpu_seconds == pytest.approx(4 * (4 + START_SECONDS))


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_the_winner_of_the_grid_is_not_lost(
    recorded: Landscape, tmp_path: Path, sampler: str
) -> None:
    found = simulate(Case("winner", sampler, "ours", 4, 0), recorded, tmp_path)
    assert found.has_winner
    assert found.gpu_seconds < recorded.gpu_seconds
    assert found.n_trials == 162
