"""What every Runner does, shown on each with real trials of the tiny model."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from sweep.driver.loop import Runner, run
from sweep.study.budget import Budget
from sweep.workers import connection
from sweep.workers.runner import RayRunner
from tests.inline_runner import InlineRunner
from tests.recording import Recording
from trials.backends.loading import load
from trials.config import EvalPoint, Report, Stop, TrialConfig, TrialResult
from trials.memory.micro_batches import MicroBatchMemory
from trials.models.frozen_base import FrozenBase
from trials.training.train import run_trial
from trials.trial_folder import logged
from trials.worker import guarded

MakeConfig = Callable[..., TrialConfig]
MakeRunner = Callable[[], Runner]


@pytest.fixture(params=["inline", "ray"])
def make_runner(request: pytest.FixtureRequest, config: MakeConfig) -> Iterator[MakeRunner]:
    model = config().model
    if request.param == "inline":
        base: FrozenBase = load(model)

        def trial(config: TrialConfig, report: Report) -> TrialResult:
            from pathlib import Path

            with logged(Path(config.output_dir)):
                return guarded(lambda c: run_trial(c, base, MicroBatchMemory(), report), config)[0]

        yield lambda: InlineRunner(trial)
        return
    connection.connect(n_cpu_workers=1)
    runners: list[RayRunner] = []

    def make() -> Runner:
        runners.append(RayRunner(model, n_slots=lambda: 1, on_gpus=False))
        return runners[-1]

    yield make
    for runner in runners:
        runner.shutdown()
    connection.disconnect()


def test_a_runner_keeps_its_contract(make_runner: MakeRunner, config: MakeConfig) -> None:
    """One sweep for all claims: a worker process takes seconds to come up."""

    def stop_trial_1(number: int, point: EvalPoint) -> Stop | None:
        return Stop(outcome="outclassed", reason="Enough.") if number == 1 else None

    configs = [
        config(0),
        config(1),
        config(2, lr_scheduler="nonsense"),  # raises KeyError in the worker
        config(3),
    ]
    sweep = Recording(configs, stop_trial_1)
    run(sweep, make_runner(), Budget(None, None))

    assert [number for what, number in sweep.events if what == "started"] == [0, 1, 2, 3]
    assert sweep.results[0].outcome == "completed"
    assert [point.index for point in sweep.points[0]] == [1, 2, 3, 4]
    assert (sweep.results[1].outcome, len(sweep.points[1])) == ("outclassed", 1)
    assert sweep.results[2].outcome == "failed"
    assert "KeyError: 'nonsense'" in sweep.results[2].reason
    assert "Traceback" in sweep.results[2].reason  # the end of its log
    assert sweep.results[3].outcome == "completed"
    equal = [(p.train_loss, p.eval_loss) for p in sweep.points[0]]
    assert equal == [(p.train_loss, p.eval_loss) for p in sweep.points[3]]
