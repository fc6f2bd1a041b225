"""A base model is sized up, or refused, before rows are tokenised."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests import tiny
from trials.config import ConfigError, TrialConfig
from trials.preparation.sizing import size_up


def test_latent_attention_in_8_bits_is_refused_on_processors(tmp_path: Path) -> None:
    """Plain transformers fails alike; once it does not, the check can go."""
    small = {"hidden_size": 32, "num_hidden_layers": 1, "first_k_dense_replace": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 64}
    latent = {"kv_lora_rank": 8, "q_lora_rank": 12, "qk_rope_head_dim": 4, "v_head_dim": 8}
    config = AutoConfig.for_model("deepseek_v3", **small, **heads, **latent, qk_nope_head_dim=8)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path)
    for quantization in ("nf4", "none"):
        model = replace(tiny.model_config(tmp_path), quantization=quantization)
        size_up(model, tiny.ADAPTERS, on_gpu=False)
    model = replace(tiny.model_config(tmp_path), quantization="int8")
    size_up(model, tiny.ADAPTERS, on_gpu=True)
    with pytest.raises(ConfigError, match="quantization: must be nf4 or none for deepseek_v3"):
        size_up(model, tiny.ADAPTERS, on_gpu=False)


def test_dora_in_8_bits_is_refused_on_processors(
    tiny_base: Path, config: Callable[..., TrialConfig]
) -> None:
    """Once peft and bitsandbytes compute it, the check can go."""
    model = replace(tiny.model_config(tiny_base), quantization="int8")
    choices = replace(tiny.ADAPTERS, use_dora=True)
    with pytest.raises(ConfigError, match="must be nf4 or none where search.use_dora"):
        size_up(model, choices, on_gpu=False)
    size_up(model, choices, on_gpu=True)
    base = tiny.transformers_base(model)
    ids = torch.tensor([[3, 4, 5]])
    batch = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}
    adapted = base.add_adapter(config(use_dora=True))
    with pytest.raises(AttributeError, match="NoneType"):
        base.nll_sum(adapted, batch)
        base.nll_sum(adapted, batch)


def test_the_base_model_in_16_bits_is_sized_up_without_the_adapter(tiny_base: Path) -> None:
    sized = size_up(tiny.model_config(tiny_base), tiny.ADAPTERS, on_gpu=False)
    memory = sized.memory(optimizer="adamw", micro_batch_size=8, max_length=64, on_gpu=False)
    assert memory["plain_gib"] * 2**30 == 2 * sized.weights.n_parameters
