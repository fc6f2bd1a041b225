"""`sweep.tune` under a real Tuner with ASHA, on the tiny model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweep.errors import SpaceError
from sweep.space.loading import load_space
from sweep.tune import _params, qlora_trainable, search_space
from tests import tiny

N_EVALUATIONS = 8
SPACE = """\
base_model: {base}
data: {{train: train.jsonl, eval: eval.jsonl, max_length: 64}}
search:
  rank: [4, 8]
  alpha: {{times_rank: [1, 2]}}
  learning_rate: {{min: 1e-4, max: 1e-2, log: true}}
  effective_batch_size: {{min: 4, max: 8, step: 4}}
  epochs: 10
evaluate: {{times: {n}}}
"""


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune")
    tiny.write_rows(folder / "train.jsonl", 48, seed=2)
    tiny.write_rows(folder / "eval.jsonl", 64, seed=3)
    path = folder / "tiny.yaml"
    path.write_text(SPACE.format(base=tiny.make_base(folder / "base"), n=N_EVALUATIONS))
    return path


@pytest.fixture(scope="module")
def ray_session() -> Iterator[Any]:
    import ray

    ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def test_a_space_becomes_tunes_own_domains(space: Path) -> None:
    found = search_space(space)
    assert set(found) == {"rank", "alpha_times_rank", "learning_rate", "effective_batch_size"}
    assert found["rank"].categories == [4, 8]
    assert 1e-4 <= found["learning_rate"].sample() <= 1e-2
    assert {found["effective_batch_size"].sample() for _ in range(40)} == {4, 8}


def test_a_range_may_begin_beside_a_multiple_of_its_step(space: Path) -> None:
    changes = {
        "search.epochs": "{min: 1, max: 4, step: 1.5}",
        "search.effective_batch_size": "{min: 5, max: 11, step: 3}",
    }
    found = search_space(load_space(space, changes))
    assert found["epochs"].categories == [1.0, 2.5, 4.0]
    assert found["effective_batch_size"].categories == [5, 8, 11]


def test_alpha_is_multiplied_out_and_the_rest_is_as_usual(space: Path) -> None:
    params = _params(load_space(space), {"rank": 8, "alpha_times_rank": 2})
    assert (params["rank"], params["alpha"], params["epochs"]) == (8, 16.0, 10)


def test_a_key_that_is_no_hyperparameter_is_said_in_words(space: Path) -> None:
    with pytest.raises(SpaceError, match="lr: is `learning_rate` here"):
        _params(load_space(space), {"lr": 1e-3})


@pytest.mark.long
def test_a_tuner_with_asha_stops_the_worse_and_keeps_the_adapters_of_the_rest(
    space: Path, tmp_path: Path, ray_session: Any
) -> None:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    said: list[str] = []
    trainable = qlora_trainable(space, output=tmp_path / "sweeps", on_gpus=False, say=said.append)
    tuner = tune.Tuner(
        trainable,
        param_space=search_space(space)
        | {"learning_rate": tune.grid_search([1e-4, 3e-4, 1e-3, 1e-2])},
        tune_config=tune.TuneConfig(
            metric="eval_loss_best",
            mode="min",
            max_concurrent_trials=2,
            scheduler=ASHAScheduler(max_t=N_EVALUATIONS, grace_period=1, reduction_factor=2),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(storage_path=str(tmp_path / "tuned"), verbose=0),
    )
    results = tuner.fit()
    assert results.num_errors == 0
    ended = [result.metrics for result in results]
    assert len(ended) == 4
    assert all(math.isfinite(metrics["eval_loss"]) for metrics in ended)
    whole = [r for r in results if r.metrics.get("outcome") in ("completed", "overfit")]
    cut = [r for r in results if "outcome" not in r.metrics]
    assert whole and cut
    assert len(whole) + len(cut) == 4
    for result in whole:
        folder = Path(result.checkpoint.path)
        assert (folder / "adapter_model.safetensors").stat().st_size > 0
        assert result.metrics["eval_loss_best"] == result.metrics_dataframe["eval_loss"].min()
    for result in cut:
        assert result.checkpoint is None
        assert result.metrics["training_iteration"] < N_EVALUATIONS
    short = tune.Tuner(
        trainable,
        param_space={"epochs": 0.5, "effective_batch_size": 8},
        run_config=tune.RunConfig(storage_path=str(tmp_path / "short"), verbose=0),
    ).fit()[0]
    # 3 steps, so 3 of the 8 evaluations: the index says how much of the run is done.
    assert list(short.metrics_dataframe["training_iteration"]) == [2, 5, 8]
    ray_session.shutdown()
    left = [p for p in psutil.Process().children(recursive=True) if "ray::" in p.name()]
    psutil.wait_procs(left, timeout=10)
    assert [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
