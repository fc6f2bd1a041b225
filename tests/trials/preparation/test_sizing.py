"""A base model is sized up, or refused, before rows are tokenised."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests import tiny
from trials.config import ConfigError
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
