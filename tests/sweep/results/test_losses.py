"""Train and eval loss of a trial, and whether it overfits after the evaluation that was kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sweep.results.losses import Losses, losses_of
from sweep.results.reading import read_sweep
from sweep.study.ended import StoredTrial
from tests.sweep.reviewed import make_config, point, result, write_sweep

FALLS = [2.0, 1.6, 1.2, 1.0]


def losses(evals: list[float | None], trains: list[float | None], kept: int | None = 1) -> Losses:
    return Losses([1.0, 2.0, 3.0, 4.0], evals, trains, kept)


@pytest.mark.parametrize(
    ("evals", "trains", "kept", "overfits"),
    [
        ([2.0, 1.8, 1.9, 2.0], FALLS, 1, True),
        ([2.0, 1.8, 1.8001, 1.8002], FALLS, 1, False),  # level
        ([2.0, 1.8, 3.0, 3.0], [2.0, 1.6, 2.5, 2.6], 1, False),  # too high a rate
        ([2.0, 1.9, 1.8, 1.7], FALLS, 3, False),  # its last is its best
        ([2.0, 1.8, 1.9, 2.0], [None] * 4, 1, False),
        ([None] * 4, FALLS, None, False),
    ],
)
def test_it_overfits_where_eval_loss_rises_while_train_loss_falls(
    evals: list[float | None], trains: list[float | None], kept: int | None, overfits: bool
) -> None:
    assert losses(evals, trains, kept).overfits is overfits


def test_losses_are_those_of_the_evaluations(tmp_path: Path) -> None:
    curve = [point(1, 2.0), point(2, 1.5), replace(point(3, float("inf")), train_loss=None)]
    folder = write_sweep(tmp_path / "one", [(make_config(0), result("diverged", curve), curve)])
    sweep = read_sweep(folder)
    found = losses_of(sweep, sweep.trials[0])
    assert found == Losses([0.5, 1.0, 1.5], [2.0, 1.5, None], [1.0, 1.0, None], kept=1)


def test_a_trial_that_runs_has_its_eval_losses_alone(tmp_path: Path) -> None:
    sweep = read_sweep(write_sweep(tmp_path / "one", []))
    trial = StoredTrial(0, {"epochs": 1.5}, "running", values={1: 2.0, 2: 1.9})
    assert losses_of(sweep, trial) == Losses([0.375, 0.75], [2.0, 1.9], [None, None], kept=None)
