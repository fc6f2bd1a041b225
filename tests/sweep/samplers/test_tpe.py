"""Our TPE draws what Optuna's draws, to the last digit."""

from __future__ import annotations

import math
import random

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from sweep.samplers.tpe import Observed, Tpe

SPACE: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
    "rank_index": IntDistribution(0, 3),
    "epochs": FloatDistribution(0.5, 3, step=0.5),
    "lr_scheduler": CategoricalDistribution(("cosine", "linear", "constant")),
    "use_dora": CategoricalDistribution((False, True)),
}


def tell(study: optuna.Study, trial: optuna.Trial, chance: random.Random) -> None:
    """End a trial in one of all the ways that TPE tells apart, with losses that are often equal."""
    for step in range(1, chance.choice([1, 1, 4, 4])):
        trial.report(chance.choice([1.0, 2.0, math.nan, math.inf]), step)
    trial.set_constraint("memory", chance.choice([-1.0, -1.0, -1.0, 1.0, 2.0]))
    how = chance.choice(["complete", "complete", "pruned", "pruned", "failed"])
    if how == "complete":
        study.tell(trial, chance.choice([0.5, 1.0, 1.5, chance.random()]))
    else:
        study.tell(trial, state=TrialState.PRUNED if how == "pruned" else TrialState.FAIL)


@pytest.mark.parametrize("n_running", [1, 8])
def test_equal_studies_are_asked_for_equal_points(n_running: int) -> None:
    ours, theirs = optuna.create_study(), optuna.create_study()
    observed = Observed(SPACE)  # kept, as the view keeps it
    running: list[tuple[optuna.Trial, optuna.Trial]] = []
    for number in range(80):
        ours.sampler, theirs.sampler = Tpe(observed, seed=number), TPESampler(seed=number)
        running.append((ours.ask(SPACE), theirs.ask(SPACE)))
        assert running[-1][0].params == running[-1][1].params
        if len(running) == n_running:
            ended = running.pop(number % n_running)
            for study, trial in zip((ours, theirs), ended, strict=True):
                tell(study, trial, random.Random(number))
    assert {trial.state for trial in ours.trials} >= {TrialState.COMPLETE, TrialState.PRUNED}


def test_a_draw_that_is_made_again_goes_on_with_the_same_chance() -> None:
    study = optuna.create_study()
    for number in range(12):
        tell(study, study.ask(SPACE), random.Random(number))
        study.add_trial(
            optuna.trial.create_trial(
                params={name: study.ask(SPACE).params[name] for name in SPACE},
                distributions=SPACE,
                value=1.0,
            )
        )
    drawn = []
    for sampler in (Tpe(Observed(SPACE), seed=5), TPESampler(seed=5)):
        trial = study.ask()
        frozen = study.get_trials(deepcopy=False)[trial.number]
        space = sampler.infer_relative_search_space(study, frozen)
        drawn.append([sampler.sample_relative(study, frozen, space) for _ in range(3)])
        study.tell(trial, state=TrialState.FAIL)
    assert drawn[0] == drawn[1]
    assert drawn[0][0] != drawn[0][1]


FEW: dict[str, BaseDistribution] = {"a": IntDistribution(0, 5), "b": IntDistribution(0, 5)}


def test_of_its_candidates_the_best_that_has_not_been_tried_is_drawn() -> None:
    study, observed = optuna.create_study(), Observed(FEW)
    taken: set[tuple[int, int]] = set()
    for number in range(36):
        sampler = Tpe(observed, seed=number)
        sampler.is_taken = lambda point: (point["a"], point["b"]) in taken
        study.sampler = sampler
        trial = study.ask(FEW)
        a, b = trial.params["a"], trial.params["b"]
        taken.add((a, b))
        study.tell(trial, (a - 3) ** 2 + (b - 2) ** 2)
    assert len(taken) > 25  # Optuna's own draws the best two or three again and again
    free = [{"a": 0, "b": 5}, {"a": 3, "b": 2}, {"a": 5, "b": 0}]
    assert sampler.best_of(free) == {"a": 3, "b": 2}
