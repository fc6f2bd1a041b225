from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from sweep.samplers.choice import make_sampler
from sweep.samplers.search_space import distributions, hyperparameters, optuna_name, params_of
from sweep.samplers.without_repeats import (
    WithoutRepeats,
    _point,
    free_point,
    free_points,
    points_taken,
    values_of,
)
from sweep.space.loading import load_space
from sweep.space.space import Space

MakeSpace = Callable[..., Space]


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def space(tmp_path: Path) -> MakeSpace:
    """Makes a space of a search, as YAML; more lines may follow it."""
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n')

    def make(search: str, *more: str) -> Space:
        path = tmp_path / "mine.yaml"
        lines = ["base_model: smollm2-135m", "data: {train: train.jsonl, eval: 0.1}"]
        path.write_text("\n".join([*lines, f"search: {search}", *more]))
        return load_space(path)

    return make


@pytest.mark.parametrize(
    ("search", "name", "distribution"),
    [
        ("{rank: [8, 16, 64]}", "rank_index", IntDistribution(0, 2)),
        ("{use_rslora: [true, false]}", "use_rslora", CategoricalDistribution((True, False))),
        ("{target_modules: [qv, mlp]}", "target_modules", CategoricalDistribution(("qv", "mlp"))),
        (
            "{target_modules: [qv, [fc1, fc2], 're:.*(q|v)_proj']}",
            "target_modules",
            CategoricalDistribution(("qv", "fc1,fc2", "re:.*(q|v)_proj")),
        ),
        ("{experts: [true, false]}", "experts", CategoricalDistribution((True, False))),
        (
            "{learning_rate: {min: 5e-5, max: 1e-3, log: true}}",
            "learning_rate",
            FloatDistribution(5e-5, 1e-3, log=True),
        ),
        (
            "{dropout: {min: 0, max: 0.2, step: 0.1}}",
            "dropout",
            FloatDistribution(0, 0.2, step=0.1),
        ),
        ("{rank: {min: 8, max: 64, log: true}}", "rank", IntDistribution(8, 64, log=True)),
        ("{rank: {min: 8, max: 64, step: 8}}", "rank", IntDistribution(8, 64, step=8)),
        ("{alpha: {times_rank: [1, 2]}}", "alpha_times_rank_index", IntDistribution(0, 1)),
        (
            "{alpha: {times_rank: {min: 0.5, max: 2}}}",
            "alpha_times_rank",
            FloatDistribution(0.5, 2),
        ),
    ],
)
def test_each_kind_of_domain_has_its_distribution(
    space: MakeSpace, search: str, name: str, distribution: BaseDistribution
) -> None:
    assert distributions(space(search)) == {name: distribution}


def test_a_fixed_setting_is_not_sampled(space: MakeSpace) -> None:
    fixed = space("{rank: 8, epochs: [2], alpha: {times_rank: 2}}")
    assert distributions(fixed) == {}
    values = hyperparameters(fixed, {})
    assert (values["rank"], values["epochs"], values["alpha"]) == (8, 2, 16)


def test_every_hyperparameter_has_a_value(space: MakeSpace) -> None:
    values = hyperparameters(space("{rank: [8, 16]}"), {"rank_index": 1})
    assert values == {
        "rank": 16,
        "alpha": 16.0,
        "learning_rate": 2e-4,
        "epochs": 1,
        "effective_batch_size": 16,
        "dropout": 0.0,
        "warmup_ratio": 0.03,
        "weight_decay": 0.0,
        "lr_scheduler": "cosine",
        "max_grad_norm": 1.0,
        "target_modules": "all-linear",
        "experts": False,
        "use_rslora": False,
        "use_dora": False,
        "neftune_alpha": 0.0,
        "max_length": 1024,
    }


def test_a_list_of_numbers_is_sampled_in_its_order(space: MakeSpace) -> None:
    searched = space("{rank: [64, 8, 32, 16]}")
    ranks = [hyperparameters(searched, {"rank_index": index})["rank"] for index in range(4)]
    assert ranks == [8, 16, 32, 64]


def test_alpha_follows_the_rank_of_its_trial(space: MakeSpace) -> None:
    searched = space("{rank: [8, 16], alpha: {times_rank: [1, 2]}}")
    values = hyperparameters(searched, {"rank_index": 1, "alpha_times_rank_index": 1})
    assert (values["rank"], values["alpha"]) == (16, 32)


def test_an_alpha_of_its_own_does_not(space: MakeSpace) -> None:
    searched = space("{rank: [8, 16], alpha: [16, 32]}")
    values = hyperparameters(searched, {"rank_index": 0, "alpha_index": 1})
    assert (values["rank"], values["alpha"]) == (8, 32)


@pytest.mark.parametrize(
    "values",
    [
        {"rank": 32, "alpha": 64, "epochs": 2, "use_rslora": True, "dropout": 0.1},
        {"rank": 8, "alpha": 8.0, "epochs": 0.5, "use_rslora": False, "dropout": 0.05},
    ],
)
def test_params_of_undoes_hyperparameters(space: MakeSpace, values: dict[str, Any]) -> None:
    searched = space(
        "{rank: [8, 16, 32], alpha: {times_rank: [1, 2]}, epochs: [0.5, 1, 2], "
        "use_rslora: [true, false], dropout: {min: 0, max: 0.1}}"
    )
    params = params_of(searched, values)
    assert set(params) == set(distributions(searched))
    assert hyperparameters(searched, params).items() >= values.items()


def test_params_of_a_factor_out_of_a_range(space: MakeSpace) -> None:
    searched = space("{rank: [8, 16], alpha: {times_rank: {min: 0.5, max: 2}}}")
    params = params_of(searched, {"rank": 16, "alpha": 24})
    assert params == {"rank_index": 1, "alpha_times_rank": 1.5}


def test_params_of_leaves_fixed_settings_out(space: MakeSpace) -> None:
    assert params_of(space("{rank: 8, epochs: [1, 2]}"), {"rank": 8, "epochs": 2}) == {
        "epochs_index": 1
    }


def test_the_default_start_is_in_the_words_of_the_study(space: MakeSpace) -> None:
    searched = space("{rank: [8, 16], alpha: {times_rank: [1, 2]}, epochs: [2, 3]}")
    assert params_of(searched, searched.starts[0].values) == {
        "rank_index": 1,
        "alpha_times_rank_index": 0,
        "epochs_index": 0,
    }


def ask(study: optuna.Study, space: Space) -> optuna.Trial:
    """Ask as `Sweep` does: each trial with a sampler of its own seed."""
    study.sampler = make_sampler(space, number=len(study.trials))
    return study.ask(distributions(space))


def drawn(space: Space, n: int, *, enqueued: tuple[dict[str, Any], ...] = ()) -> list[Any]:
    """The points of `n` trials of a study, told losses that a sampler can learn from."""
    study = optuna.create_study()
    for start in enqueued:
        study.enqueue_trial(params_of(space, start))
    points = []
    for number in range(n):
        trial = ask(study, space)
        values = hyperparameters(space, trial.params)
        points.append(tuple(values[name] for name in ("rank", "epochs", "dropout")))
        study.tell(trial, 1.0 / (1 + number % 4))
    return points


SIX = "{rank: [8, 16, 32], epochs: [1, 2]}"


@pytest.mark.parametrize("sampler", ["random", "tpe", "grid", "gp"])
def test_a_small_space_is_drawn_point_by_point(space: MakeSpace, sampler: str) -> None:
    points = drawn(space(SIX, f"sampler: {sampler}"), 6)
    assert len(set(points)) == 6


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_enqueued_points_are_not_drawn_again(space: MakeSpace, sampler: str) -> None:
    starts = ({"rank": 16, "epochs": 1}, {"rank": 32})
    points = drawn(space(SIX, f"sampler: {sampler}"), 6, enqueued=starts)
    assert points[0] == (16, 1, 0.0)
    assert points[1][0] == 32
    assert len(set(points)) == 6


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_steps_of_a_float_range_are_drawn_one_by_one(space: MakeSpace, sampler: str) -> None:
    searched = space("{dropout: {min: 0.1, max: 0.7, step: 0.1}}", f"sampler: {sampler}")
    points = drawn(searched, 7)
    assert sorted(round(dropout, 6) for _, _, dropout in points) == [
        0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7,
    ]  # fmt: skip


def test_a_space_that_is_used_up_goes_on_drawing(space: MakeSpace) -> None:
    points = drawn(space(SIX, "sampler: random"), 8)
    assert len(set(points[:6])) == 6
    assert set(points[6:]) <= set(points[:6])


@pytest.mark.parametrize("sampler", ["random", "tpe", "grid"])
def test_equal_seeds_draw_equal_points(space: MakeSpace, sampler: str) -> None:
    searched = "{rank: [8, 16, 32, 64], epochs: [1, 2, 3], dropout: [0.0, 0.1]}"
    first, second, other = (
        drawn(space(searched, f"sampler: {sampler}", f"seed: {seed}"), 16) for seed in (7, 7, 8)
    )
    assert first == second
    assert first != other


def test_a_continuous_space_needs_no_guard_against_repeats(space: MakeSpace) -> None:
    assert isinstance(make_sampler(space(SIX), number=0), WithoutRepeats)
    sampler = make_sampler(space("{dropout: {min: 0, max: 0.1}}"), number=0)
    assert isinstance(sampler, optuna.samplers.TPESampler)


@pytest.mark.parametrize(
    ("distribution", "values"),
    [
        (CategoricalDistribution(("a", "b")), ["a", "b"]),
        (IntDistribution(8, 14, step=2), [8, 10, 12, 14]),
        (IntDistribution(1, 3, log=True), [1, 2, 3]),
        (FloatDistribution(0.0, 1.0, step=0.5), [0.0, 0.5, 1.0]),
    ],
)
def test_the_values_of_a_countable_distribution(
    distribution: BaseDistribution, values: list[Any]
) -> None:
    assert values_of(distribution) == values


def test_the_free_points_are_those_that_a_list_of_all_would_have() -> None:
    space: dict[str, BaseDistribution] = {
        "scheduler": CategoricalDistribution(("cosine", "linear")),
        "rank_index": IntDistribution(0, 2),
        "dropout": FloatDistribution(0.1, 0.7, step=0.1),
    }
    points = [
        dict(zip(space, point, strict=True))
        for point in itertools.product(*map(values_of, space.values()))
    ]
    taken: set[tuple[Any, ...]] = set()
    for n_taken in range(len(points)):
        free = [point for point in points if _point(point, space) not in taken]
        wanted = free[np.random.default_rng(n_taken).integers(len(free))]
        assert free_points(space, taken) == free
        assert free_point(space, taken, np.random.default_rng(n_taken)) == wanted
        taken.add(_point(wanted, space))
    assert free_point(space, taken, np.random.default_rng(0)) == {}
    assert free_points({**space, "many": IntDistribution(1, 1000)}, set()) == []


def test_no_value_lies_outside_its_distribution() -> None:
    distribution = FloatDistribution(0.1, 0.7, step=0.1)
    assert all(distribution._contains(value) for value in values_of(distribution))


def test_a_running_trial_takes_its_point(space: MakeSpace) -> None:
    searched = space(SIX)
    study = optuna.create_study()
    trials = [ask(study, searched) for _ in range(3)]
    assert len(points_taken(study, distributions(searched))) == 3
    assert len(points_taken(study, distributions(searched), except_number=trials[0].number)) == 2


def test_names_say_what_the_study_counts(space: MakeSpace) -> None:
    domains = space("{rank: [8, 16], alpha: {times_rank: [1, 2]}}").domains
    assert [optuna_name(name, domains[name]) for name in ("rank", "alpha", "lr_scheduler")] == [
        "rank_index",
        "alpha_times_rank_index",
        "lr_scheduler",
    ]
