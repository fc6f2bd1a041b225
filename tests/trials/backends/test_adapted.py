"""An adapter is on the modules that were asked for, or the trial does not begin."""

from __future__ import annotations

from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from trials.backends.adapted import check_adapted
from trials.config import ConfigError

LAYERS = [f"model.layers.{n}" for n in range(2)]
WANTED = [f"{layer}.self_attn.{name}" for layer in LAYERS for name in ("q_proj", "v_proj")]
EXPERTS = [f"{layer}.mlp.experts.{n}" for layer in LAYERS for n in ("gate_up_proj", "down_proj")]


def adapted(**settings: Any) -> Qwen3MoeForCausalLM:
    config = Qwen3MoeConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        moe_intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
    )
    model = Qwen3MoeForCausalLM(config)
    get_peft_model(model, LoraConfig(r=2, **settings))
    return model


@pytest.mark.parametrize("experts", [[], EXPERTS])
def test_an_adapter_on_what_was_asked_for_passes(experts: list[str]) -> None:
    model = adapted(target_modules=WANTED, target_parameters=experts or None)
    check_adapted(model, [*WANTED, *experts])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target_modules": WANTED[1:]}, r"made without model.layers.0.self_attn.q_proj;"),
        (
            {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
            r"made with model.layers.0.self_attn.k_proj, .*k_proj and 1 more; write backend: tr",
        ),
        ({"target_modules": WANTED, "target_parameters": EXPERTS}, r"made with .*experts\.down_"),
        ({"target_modules": WANTED, "modules_to_save": ["lm_head"]}, r"made with lm_head;"),
        ({"target_modules": [*WANTED, "embed_tokens"]}, r"made with model.embed_tokens;"),
    ],
)
def test_any_other_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_adapted(adapted(**settings), WANTED)
