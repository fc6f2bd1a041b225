"""What a trial leaves on disk is an adapter like any other: nothing of ours is needed to use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.tiny import transformers_base
from trials.config import TrialConfig
from trials.memory.micro_batches import MicroBatchMemory
from trials.training.train import run_trial

MakeConfig = Callable[..., TrialConfig]
TOKENS = torch.arange(4, 44).reshape(2, 20)


def plain_base(config: TrialConfig) -> Any:
    return AutoModelForCausalLM.from_pretrained(config.model.name, dtype=torch.float32).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=TOKENS).logits
    return found


@pytest.mark.parametrize(
    "changes",
    [{}, {"use_rslora": True}, {"use_dora": True}, {"target_modules": "qv"}, {"rank": 4}],
    ids=str,
)
def test_the_adapter_loads_everywhere_and_merges_with_equal_logits(
    config: MakeConfig, changes: dict[str, object]
) -> None:
    model = replace(config().model, quantization="none", compute_dtype="float32")
    trial = config(model=model, learning_rate=1e-2, epochs=1, n_evaluations=1, **changes)
    folder = Path(trial.output_dir)
    folder.mkdir(parents=True)
    trained: list[torch.Tensor] = []
    base = transformers_base(trial.model)
    run_trial(
        trial, base, MicroBatchMemory(), lambda _: trained.append(logits(base._adapted.eval()))
    )

    in_peft = PeftModel.from_pretrained(plain_base(trial), folder / "adapter").eval()
    in_transformers = plain_base(trial)
    in_transformers.load_adapter(str(folder / "adapter"))
    merged = PeftModel.from_pretrained(plain_base(trial), folder / "adapter").merge_and_unload()

    assert not torch.allclose(logits(plain_base(trial)), trained[0], atol=0.05)  # it has learnt
    assert torch.equal(logits(in_peft), trained[0])
    # transformers 5.17 does not find DoRA's magnitudes in any adapter of peft, and says so.
    assert torch.equal(logits(in_transformers), trained[0]) or trial.use_dora
    # W + BA first, or Wx + BAx: float32 sums in another order, of logits around 10.
    torch.testing.assert_close(logits(merged), trained[0], rtol=0, atol=5e-5)


def test_on_the_quantised_base_it_was_trained_on_the_logits_are_the_trained_ones(
    config: MakeConfig,
) -> None:
    trial = config(learning_rate=1e-2, epochs=1, n_evaluations=1)
    folder = Path(trial.output_dir)
    folder.mkdir(parents=True)
    trained: list[torch.Tensor] = []
    base = transformers_base(trial.model)

    def keep(_: object) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            trained.append(logits(base._adapted.eval()))

    run_trial(trial, base, MicroBatchMemory(), keep)
    with torch.autocast("cpu", torch.bfloat16):
        untrained = logits(base.model)
        model = PeftModel.from_pretrained(base.model, folder / "adapter").eval()
        off = (logits(model) - trained[0]).float().norm()
    assert off <= 0.05 * (untrained - trained[0]).float().norm()  # rounding to 16 bits


def test_the_tokenizer_lies_beside_the_adapter_without_its_bytes(config: MakeConfig) -> None:
    trial = config(epochs=1, n_evaluations=1)
    Path(trial.output_dir).mkdir(parents=True)
    run_trial(trial, transformers_base(trial.model), MicroBatchMemory(), lambda _: None)
    ours = Path(trial.output_dir) / "adapter" / "tokenizer.json"
    assert ours.samefile(Path(trial.data_dir) / "tokenizer" / "tokenizer.json")
    assert len(AutoTokenizer.from_pretrained(ours.parent)) > 4
