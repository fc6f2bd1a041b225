"""Each sampler by its word: real studies on disk, with trials that end in every way."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
import pytest
from optuna._gp.acqf import BaseAcquisitionFunc
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import TrialState
from scipy.stats import qmc

from sweep.samplers.choice import make_sampler
from sweep.samplers.gp import Gp
from sweep.samplers.search_space import distributions, params_of
from sweep.space.loading import load_space
from sweep.space.space import Space
from sweep.storage.attributes import POINT
from sweep.storage.patient import storage_url
from sweep.study.next_trial import View, enqueue_starts
from sweep.study.opening import open_study

Point = Mapping[str, Any]
MakeSpace = Callable[..., Space]
Direction = Literal["minimize", "maximize"]

MIXED = (
    "{learning_rate: {min: 1e-5, max: 1e-2, log: true}, rank: [8, 16, 32, 64], "
    "lr_scheduler: [cosine, linear, constant], dropout: {min: 0, max: 0.2}}"
)
TWELVE = "{rank: [8, 16, 32], epochs: [1, 2], lr_scheduler: [cosine, linear]}"
SAMPLERS = ["tpe", "gp", "qmc", "random", "grid"]


@pytest.fixture
def space(tmp_path: Path) -> MakeSpace:
    """Makes a space of a search and a sampler."""
    (tmp_path / "rows.jsonl").write_text("{}")

    def make(search: str, sampler: str, *more: str) -> Space:
        path = tmp_path / "space.yaml"
        lines = ["base_model: none", "data: {train: rows.jsonl, eval: 0.1}", f"search: {search}"]
        path.write_text("\n".join([*lines, f"sampler: {sampler}", *more]))
        return load_space(path)

    return make


def opened(space: Space) -> optuna.Study:
    study = open_study(space, storage_url(space.folder))
    enqueue_starts(study, space)
    return study


def loss(point: Point) -> float:
    return float(abs(math.log10(point["learning_rate"]) + 3) + point["rank"] / 100)


def tell(study: optuna.Study, trial: optuna.Trial) -> None:
    """End a trial: one in five completes, one runs out of memory, one fails, two are stopped."""
    number, value = trial.number, loss(trial.user_attrs[POINT])
    trial.set_constraint("memory", 1.0 if number % 5 == 3 else -1.0)
    trial.report(math.inf if number % 5 == 1 else value + 1, 1)
    if number % 5 == 0:
        study.tell(trial, value)
    else:
        study.tell(trial, state=TrialState.FAIL if number % 5 == 4 else TrialState.PRUNED)


def run(space: Space, n_trials: int, *, at_once: int = 2) -> list[Point]:
    """Open the study and run so many trials of it, two at once."""
    study = opened(space)
    view, running, points = View(study, space), [], []
    for _ in range(n_trials):
        running.append(view.next_trial())
        points.append(running[-1].user_attrs[POINT])
        if len(running) == at_once:
            tell(study, running.pop(0))
    for trial in running:
        tell(study, trial)
    return points


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_finite_space_is_tried_without_repeats(space: MakeSpace, sampler: str) -> None:
    twelve = space(TWELVE, sampler)
    points = run(twelve, 12)
    assert len({(p["rank"], p["epochs"], p["lr_scheduler"]) for p in points}) == 12
    assert View(opened(twelve), twelve).n_points_tried() == twelve.n_points


@pytest.mark.parametrize("sampler", [sampler for sampler in SAMPLERS if sampler != "grid"])
def test_points_of_a_mixed_space_lie_inside_of_it_and_differ(
    space: MakeSpace, sampler: str
) -> None:
    mixed = space(MIXED, sampler)
    points = run(mixed, 14)
    assert all(params_of(mixed, point).keys() == distributions(mixed).keys() for point in points)
    assert len({(point["learning_rate"], point["dropout"]) for point in points}) == 14


@pytest.mark.parametrize("sampler", [sampler for sampler in SAMPLERS if sampler != "grid"])
def test_a_sweep_that_was_interrupted_draws_what_an_undisturbed_one_would(
    space: MakeSpace, tmp_path: Path, sampler: str
) -> None:
    mixed = space(MIXED, sampler)
    undisturbed = run(mixed, 13, at_once=1)
    (tmp_path / "study.db").unlink()
    assert [*run(mixed, 12, at_once=1), *run(mixed, 1)] == undisturbed


def test_qmc_goes_through_its_sequence_from_trial_to_trial(space: MakeSpace) -> None:
    searched = space(
        "{dropout: {min: 0, max: 1e-1}, weight_decay: {min: 0, max: 1}}", "qmc", "start_with: []"
    )
    points = [*run(searched, 5), *run(searched, 11)]
    sequence = qmc.Sobol(2, scramble=True, seed=0).random(16)
    drawn = [[point["dropout"] / 0.1, point["weight_decay"]] for point in points]
    assert drawn == pytest.approx(sequence)


def test_qmc_spreads_its_points_evenly(space: MakeSpace) -> None:
    searched = space("{dropout: {min: 0, max: 0.16}}", "qmc", "start_with: []", "seed: 5")
    points = run(searched, 16)
    assert sorted(int(point["dropout"] * 100) for point in points) == list(range(16))


def study_of(values: Sequence[float | None], direction: Direction) -> optuna.Study:
    """A study of one parameter, tried from left to right; None: stopped."""
    study = optuna.create_study(direction=direction)
    span: dict[str, BaseDistribution] = {"dropout": FloatDistribution(0, 1)}
    for number, value in enumerate(values):
        study.add_trial(
            optuna.create_trial(
                state=TrialState.PRUNED if value is None else TrialState.COMPLETE,
                value=value,
                params={"dropout": number / (len(values) - 1)},
                distributions=span,
                intermediate_values={1: math.inf},
            )
        )
    return study


def drawn(study: optuna.Study, sampler: optuna.samplers.BaseSampler) -> float:
    study.sampler = sampler
    return float(study.ask().suggest_float("dropout", 0, 1))


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_gp_stays_away_from_where_trials_were_stopped(direction: Direction) -> None:
    sign = 1 if direction == "minimize" else -1
    good = [sign * value for value in (1.0, 0.9, 0.8)]
    stopped = [None] * 9
    draws = [drawn(study_of([*good, *stopped], direction), Gp(seed=seed)) for seed in range(8)]
    assert max(draws) < 0.5
    # Optuna's own takes 3 trials for too few, and draws at random.
    own = optuna.samplers.GPSampler
    blind = [drawn(study_of([*good, *stopped], direction), own(seed=seed)) for seed in range(8)]
    assert max(blind) > 0.5


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_gp_hears_ranks_so_that_one_trial_far_off_hides_nothing(direction: Direction) -> None:
    sign = 1 if direction == "minimize" else -1
    values = [sign * (abs(place / 11 - 0.7) + 1) for place in range(11)]
    near, far = (
        [drawn(study_of([*values, sign * last], direction), Gp(seed=seed)) for seed in range(4)]
        for last in (1.8, 1e6)
    )
    assert near == far
    assert min(near) > 0.5 and max(near) < 0.9


def test_gp_looks_at_constraints_only_where_one_is_broken() -> None:
    def draw(*constraints: float | None) -> float:
        study = optuna.create_study()
        told = study_of([abs(place / 11 - 0.9) for place in range(12)], "minimize").get_trials()
        for trial, constraint in zip(told, constraints, strict=True):
            if constraint is not None:
                trial.set_constraint("memory", constraint)
            study.add_trial(trial)
        return drawn(study, Gp(seed=3))

    free = draw(*[None] * 12)
    assert draw(*[-1.0] * 12) == free
    # From 8/11 on there is too little memory.
    assert draw(*[-1.0] * 8, *[1.0] * 4) < 8 / 11 < free


def test_gp_does_not_draw_a_point_that_runs(space: MakeSpace) -> None:
    searched = space("{dropout: {min: 0, max: 1e-1}}", "gp", "start_with: []")
    study = opened(searched)
    view = View(study, searched)
    for _ in range(12):
        trial = view.next_trial()
        study.tell(trial, abs(trial.user_attrs[POINT]["dropout"] - 0.03))
    running = sorted(view.next_trial().user_attrs[POINT]["dropout"] for _ in range(4))
    assert min(after - before for before, after in itertools.pairwise(running)) > 1e-4


def test_gp_draws_the_best_of_the_points_that_are_left(
    space: MakeSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = space("{dropout: {min: 0, max: 0.99, step: 0.01}}", "gp", "start_with: []")
    view = View(study := opened(searched), searched)
    asked: list[BaseAcquisitionFunc] = []
    inner = Gp._optimize_acqf

    def noting(self: Gp, acqf: BaseAcquisitionFunc, best: Any) -> Any:
        asked.append(acqf)
        return inner(self, acqf, best)

    monkeypatch.setattr(Gp, "_optimize_acqf", noting)
    hundredths: list[int] = []
    for _ in range(24):
        trial = view.next_trial()
        point = trial.user_attrs[POINT]["dropout"]
        study.tell(trial, (point - 0.37) ** 2)
        if asked:
            left = [{"dropout": i / 100} for i in range(100) if i not in hundredths]
            listed: Any = [*left, {"dropout": point}]
            rated = asked[-1].search_space.get_normalized_params(listed, listed)
            gains = asked[-1].eval_acqf_no_grad(rated)
            assert gains[-1] == pytest.approx(max(gains), rel=1e-6)
        hundredths.append(round(point * 100))
    assert len(asked) == 14  # after ten at random; each point was drawn once, and looked for once
    assert len(set(hundredths)) == 24
    assert min(abs(place - 37) for place in hundredths) <= 1


def test_a_sampler_whose_package_is_broken_is_refused_in_words(
    space: MakeSpace, tmp_path: Path
) -> None:
    searched = space(MIXED, "gp")
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so: no such file')")
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[3])])
    done = subprocess.run(
        [sys.executable, "-m", "sweep", "check", str(searched.folder / "space.yaml")],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "sampler: gp needs the package torch, which cannot be imported (libtorch.so" in (
        done.stderr
    )


def test_the_sampler_of_a_word_is_made(space: MakeSpace) -> None:
    made = {type(make_sampler(space(MIXED, s), 0)).__name__ for s in ("tpe", "gp", "qmc", "random")}
    assert made == {"Tpe", "Gp", "Qmc", "RandomSampler"}
