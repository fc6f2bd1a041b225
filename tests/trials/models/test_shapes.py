"""Models whose code comes with them: what their forward pass takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trials.backends.transformers_qlora import TransformersBase
from trials.config import ConfigError, ModelConfig
from trials.data.batches import collate
from trials.models.shapes import on_meta

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 64,
}


class AsFormerly(LlamaForCausalLM):  # type: ignore[misc]
    """It knows no `logits_to_keep`, and its code calls itself something else than self."""

    def forward(me: Any, input_ids: Any = None, attention_mask: Any = None) -> Any:  # noqa: N805
        return LlamaForCausalLM.forward(me, input_ids, attention_mask)


def test_a_forward_pass_is_given_what_it_takes() -> None:
    torch.manual_seed(0)
    model = AsFormerly(LlamaConfig(**SIZES)).eval().requires_grad_(False)
    base = TransformersBase(model, torch.device("cpu"), torch.float32)
    ids = list(range(9))
    row = {"input_ids": ids, "labels": [-100] * 4 + ids[4:]}
    logits = model(torch.tensor([ids])).logits[0, 3:-1]
    alone = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[4:]), reduction="sum")
    assert float(base.nll_sum(model, collate([row]))) == pytest.approx(float(alone), rel=1e-6)


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig

    def forward(me, input_ids, attention_mask=None, labels=None, return_dict=None):
        return super().forward(input_ids, attention_mask)
"""


def test_a_forward_pass_that_peft_cannot_call_is_refused(tmp_path: Path) -> None:
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (tmp_path / "own.py").write_text(CODE)
    about = {**SIZES, "model_type": "own", "auto_map": auto_map}
    (tmp_path / "config.json").write_text(json.dumps(about))
    model = ModelConfig(
        name=str(tmp_path),
        revision=None,
        quantization="none",
        compute_dtype="float32",
        backend="transformers",
        max_length=64,
        trust_remote_code=True,
    )
    words = "takes no inputs_embeds, output_attentions, output_hidden_states."
    for _ in range(2):  # transformers has its code by then
        with pytest.raises(ConfigError, match=words):
            on_meta(model)
