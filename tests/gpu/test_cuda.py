"""What only a GPU can tell: the 4-bit kernels, the memory that comes back, the micro-batch."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trials.base_model import FrozenBase, load
from trials.config import Backend, EvalPoint, TrialConfig
from trials.memory import MicroBatchMemory
from trials.train import run_trial

MakeConfig = Callable[..., TrialConfig]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
BACKENDS = [
    "transformers",
    pytest.param(
        "unsloth",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("unsloth") is None, reason="needs the unsloth extra"
        ),
    ),
]


def losses(config: TrialConfig, base: FrozenBase) -> list[float]:
    points: list[EvalPoint] = []
    Path(config.output_dir).mkdir(parents=True)
    run_trial(config, base, MicroBatchMemory(), points.append)
    return [point.eval_loss for point in points]


@pytest.mark.parametrize("backend", BACKENDS)
def test_trials_train_and_memory_returns_to_its_baseline(
    config: MakeConfig, backend: Backend
) -> None:
    model = replace(config().model, backend=backend)
    base = load(model)
    baseline = torch.cuda.memory_allocated()
    for number in range(10):
        first, *_, last = losses(config(number, model=model, evaluate_base=True), base)
        assert last < first
        assert torch.cuda.memory_allocated() == baseline


def test_micro_batches_of_8_and_4_give_one_curve(config: MakeConfig) -> None:
    base = load(config().model)
    whole = losses(config(0), base)
    split = losses(config(1, micro_batch_size=4), base)
    assert whole == pytest.approx(split, rel=5e-3)  # sums in bfloat16 in another order


def test_8_bit_adamw_learns_like_adamw(config: MakeConfig) -> None:
    base = load(config().model)
    plain = losses(config(0), base)
    small = losses(config(1, optimizer="adamw_8bit"), base)
    assert small == pytest.approx(plain, rel=2e-2)
