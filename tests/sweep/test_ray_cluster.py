"""Machines of a cluster come and go: a second raylet on this one stands for another machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import ray
from ray.cluster_utils import Cluster

from sweep import ray_workers
from sweep.devices import places_on
from sweep.loop import Budget, run
from sweep.ray_cluster import gpu_places
from sweep.ray_workers import RayRunner
from tests.recording import Recording
from trials.config import EvalPoint, TrialConfig

MakeConfig = Callable[..., TrialConfig]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr(ray_workers, "is_joined", lambda: True)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_gpus": 1, "num_cpus": 1, "include_dashboard": False},
    )
    ray.init(cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_machine_that_joins_gets_trials_and_one_that_dies_costs_its_own_alone(
    cluster: Cluster, config: MakeConfig
) -> None:
    said: list[str] = []
    node = None
    removed: set[int] = set()

    def join_then_leave(number: int, point: EvalPoint) -> None:
        nonlocal node
        if node is None:
            node = cluster.add_node(num_gpus=1, num_cpus=1)
        elif number in sweep.on_second() and not removed:
            removed.add(number)
            cluster.remove_node(node, allow_graceful=False)

    class Placed(Recording):
        def on_second(self) -> set[int]:
            running = self.running_together()[-1]
            return running if len(running) == 2 else set()

    sweep = Placed([config(number, epochs=60) for number in range(6)], join_then_leave)
    runner = RayRunner(
        config().model, n_slots=lambda: gpu_places(1), on_gpus=True, sweep=sweep, say=said.append
    )
    run(sweep, runner, Budget(None, None))
    runner.shutdown()
    assert max(map(len, sweep.running_together())) == 2
    lost = [n for n, result in sweep.results.items() if result.fault is not None]
    assert len(lost) == 1
    assert sweep.results[lost[0]].fault == "machine_lost"
    assert sum(result.outcome == "completed" for result in sweep.results.values()) == 5
    assert said[0] == "The cluster has 2 places for trials now, before 1."
    assert "The cluster has 1 place for trials now, before 2." in said


def test_two_trials_share_a_device(cluster: Cluster, config: MakeConfig) -> None:
    sweep = Recording([config(number, epochs=8) for number in range(4)])
    runner = RayRunner(
        config().model,
        n_slots=lambda: gpu_places(0.5),
        on_gpus=True,
        gpus_per_trial=0.5,
        sweep=sweep,
    )
    run(sweep, runner, Budget(None, None))
    runner.shutdown()
    assert max(map(len, sweep.running_together())) == 2
    assert {place.device for place in sweep.places.values()} == {"GPU 0"}


@pytest.mark.parametrize(
    ("n_gpus", "per_trial", "n_places"),
    [(8, 1, 8), (8, 3, 2), (2, 4, 0), (2, 0.5, 4), (3, 0.1, 30), (2, 0.4, 4), (0, 0.5, 0)],
)
def test_places_on_a_machine(n_gpus: int, per_trial: float, n_places: int) -> None:
    assert places_on(n_gpus, per_trial) == n_places
