"""The host does not wait for the device while a trial learns: a GPU that waits for it is idle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.syncs import Syncs
from tests.tiny import transformers_base
from trials.backends.transformers_qlora import TransformersBase
from trials.config import ComputeDtype, TrialConfig
from trials.data.batches import collate
from trials.data.tokens import TokenRows
from trials.distributed.group import ALONE
from trials.memory.micro_batches import MicroBatchMemory
from trials.training import learner as learning
from trials.training.learner import Learner, Window

MakeConfig = Callable[..., TrialConfig]


def syncs_of_two_steps(
    base: TransformersBase, trial: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Of the second and third: in the first, an optimizer makes its state."""
    syncs = Syncs()
    monkeypatch.setattr(learning, "collate", syncs.of_host(collate))
    monkeypatch.setattr(base, "_layout", syncs.of_host(base._layout))
    rows = TokenRows(Path(trial.data_dir) / "train", trial.max_length)
    learner = Learner(trial, base, MicroBatchMemory(), rows, ALONE)
    monkeypatch.setattr(learner, "_read", syncs.of_host(learner._read))
    noise = learner._noise
    assert noise is not None
    monkeypatch.setattr(noise, "_scale", syncs.of_host(noise._scale))
    learner.model.train()
    learner.take_step(0)
    with syncs:
        learner.take_step(1)
        learner.take_step(2)
    learner.close()
    base.remove_adapter()
    return syncs.places


@pytest.mark.parametrize("packs", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float16"])
def test_no_step_waits_for_the_device(
    config: MakeConfig, dtype: ComputeDtype, packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantization: Any = "nf4" if dtype == "bfloat16" else "none"
    model = replace(config().model, compute_dtype=dtype, quantization=quantization)
    base = transformers_base(model)
    monkeypatch.setattr(base, "_packs", lambda batch: packs)
    trial = config(1, model=model, micro_batch_size=2, neftune_alpha=5.0, dropout=0.1)
    assert syncs_of_two_steps(base, trial, monkeypatch) == []


def test_the_losses_of_all_steps_come_from_the_device_at_once() -> None:
    window = Window(torch.device("cpu"))
    for nats in (6.0, 3.0, 5.0):
        window.add(torch.tensor(nats, dtype=torch.float64), n_targets=2, n_tokens=4)
    with Syncs() as syncs:
        trained = window.take()
    assert (trained.step_losses, trained.loss) == ((3.0, 1.5, 2.5), 14 / 6)
    assert len(syncs.places) == 1


def test_what_waits_is_counted() -> None:
    numbers = torch.arange(4)
    with Syncs() as syncs:
        float(numbers.sum())
        assert bool((numbers > 2).any())
        numbers[numbers > 2]
        numbers.nonzero()
        numbers.tolist()
        with syncs.on_host():
            numbers.tolist()
    assert len(syncs.places) == 5
    assert all("test_syncs.py" in place for place in syncs.places)
