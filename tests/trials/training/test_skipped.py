"""Steps that float16 leaves out are counted and told; too many are a divergence."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tiny import transformers_base
from trials.config import EvalPoint, TrialConfig
from trials.data.tokens import TokenRows
from trials.distributed.group import ALONE
from trials.memory.micro_batches import MicroBatchMemory
from trials.training.learner import Learner
from trials.training.skipped import SkippedSteps
from trials.training.train import run_trial

MakeConfig = Callable[..., TrialConfig]
CPU = torch.device("cpu")


def counted(norms: Iterable[float]) -> SkippedSteps:
    steps = SkippedSteps(CPU)
    for norm in norms:
        steps.add(torch.tensor(norm))
    return steps


@pytest.mark.parametrize(
    ("norms", "told"),
    [
        ([1.0] * 100, None),
        ([math.inf] * 20 + [1.0], None),  # the scaler settles
        ([math.inf] * 21 + [1.0], "21 steps in a row were skipped, since gradients were not"),
        ([1.0] * 50 + [math.nan], None),  # one alone tells nothing
        (([1.0] * 50) + [math.nan] * 10 + [1.0] * 90, None),
        (([1.0] * 50) + [math.nan] * 11 + [1.0] * 89, "11 of the 100 steps after the first 50"),
    ],
)
def test_more_than_20_in_a_row_or_a_tenth_later_is_a_divergence(
    norms: list[float], told: str | None
) -> None:
    reason = counted(norms).reason(is_last=False)
    assert reason is None if told is None else str(reason).startswith(told)


def test_a_short_run_that_skipped_every_step_has_not_trained() -> None:
    steps = counted([math.nan] * 3)
    assert steps.reason(is_last=False) is None
    assert str(steps.reason(is_last=True)).startswith("All 3 steps were skipped")


def test_a_checkpoint_goes_on_counting() -> None:
    before, after = counted([math.inf] * 15), SkippedSteps(CPU)
    after.restore(before.state())
    for _ in range(6):
        after.add(torch.tensor(math.inf))
    assert str(after.reason(is_last=False)).startswith("21 steps in a row")


@pytest.fixture
def in_float16(config: MakeConfig) -> MakeConfig:
    def make(**changes: object) -> TrialConfig:
        model = replace(config().model, compute_dtype="float16", quantization="none")
        return config(model=model, **changes)

    return make


def overflow(learner: Learner) -> None:
    """Let every gradient of one matrix overflow, as float16's do."""
    weight = next(p for p in learner.model.parameters() if p.requires_grad)
    weight.register_hook(lambda grad: grad + math.inf)


def test_what_is_counted_is_what_the_scaler_leaves_out(in_float16: MakeConfig) -> None:
    trial = in_float16()
    base = transformers_base(trial.model)
    rows = TokenRows(Path(trial.data_dir) / "train", 64)
    learner = Learner(trial, base, MicroBatchMemory(), rows, ALONE)
    learner.model.train()
    scales = [learner._scaler.get_scale()]
    for step in range(4):
        if step == 2:
            overflow(learner)
        learner.take_step(step)
        scales.append(learner._scaler.get_scale())
    n_fallen = sum(after < before for before, after in itertools.pairwise(scales))
    assert learner.skipped.state()[:2] == [4, n_fallen]
    assert n_fallen >= 2


def test_a_trial_whose_steps_are_all_skipped_is_diverged_and_says_why(
    in_float16: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Learner.__init__

    def overflowing(self: Learner, *args: object) -> None:
        own(self, *args)  # type: ignore[arg-type]
        overflow(self)

    monkeypatch.setattr(Learner, "__init__", overflowing)
    trial = in_float16()
    Path(trial.output_dir).mkdir(parents=True, exist_ok=True)
    points: list[EvalPoint] = []
    base = transformers_base(trial.model)
    result = run_trial(trial, base, MicroBatchMemory(), points.append)
    assert result.outcome == "diverged"
    assert "were skipped, since gradients were not finite in float16" in result.reason
    assert "Write compute_dtype: float32" in result.reason
    assert "steps were skipped" in capsys.readouterr().out
