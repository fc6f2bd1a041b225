"""Which modules each choice means, on the shapes of models as they are published."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from trials.config import ConfigError
from trials.models.target_modules import adaptable, find

LLAMA = "q_proj k_proj v_proj o_proj"
KINDS = {
    # model type: attention; MLP and shared experts; queries and values; what else is adapted
    "llama": (LLAMA, "gate_proj up_proj down_proj", "q_proj v_proj", ""),
    "phi3": ("qkv_proj o_proj", "gate_up_proj down_proj", "qkv_proj", ""),
    "gpt2": ("c_attn c_proj", "c_fc c_proj", "c_attn", ""),
    "gpt_neox": ("query_key_value dense", "dense_h_to_4h dense_4h_to_h", "query_key_value", ""),
    "bloom": ("query_key_value dense", "dense_h_to_4h dense_4h_to_h", "query_key_value", ""),
    "falcon": ("query_key_value dense", "dense_h_to_4h dense_4h_to_h", "query_key_value", ""),
    "mpt": ("Wqkv out_proj", "up_proj down_proj", "Wqkv", ""),
    "opt": ("q_proj k_proj v_proj out_proj", "fc1 fc2", "q_proj v_proj", ""),
    "gptj": ("q_proj k_proj v_proj out_proj", "fc_in fc_out", "q_proj v_proj", ""),
    "phi": ("q_proj k_proj v_proj dense", "fc1 fc2", "q_proj v_proj", ""),
    "starcoder2": (LLAMA, "c_fc c_proj", "q_proj v_proj", ""),
    "gpt_oss": (LLAMA, "", "q_proj v_proj", ""),
    "qwen3_moe": (LLAMA, "", "q_proj v_proj", ""),
    "qwen2_moe": (LLAMA, "gate_proj up_proj down_proj", "q_proj v_proj", ""),
    "deepseek_v3": (
        "q_a_proj q_b_proj kv_a_proj_with_mqa kv_b_proj o_proj",
        "gate_proj up_proj down_proj",
        "q_b_proj kv_b_proj",
        "",
    ),
    "lfm2": ("q_proj k_proj v_proj out_proj", "w1 w2 w3", "q_proj v_proj", "in_proj out_proj"),
    "qwen3_next": (
        f"{LLAMA} in_proj_qkvz in_proj_ba out_proj",
        "gate_proj up_proj down_proj",
        "q_proj v_proj in_proj_qkvz",
        "",
    ),
    "llama4_text": (LLAMA, "gate_proj up_proj down_proj", "q_proj v_proj", ""),
    "phimoe": (LLAMA, "", "q_proj v_proj", ""),
    "falcon_h1": (LLAMA, "gate_proj up_proj down_proj", "q_proj v_proj", "in_proj"),
    "mamba": ("", "", "", "in_proj"),
}
ROUTED = {"gpt_oss", "qwen3_moe", "qwen2_moe", "deepseek_v3", "qwen3_next", "llama4_text", "phimoe"}


ABOUT: dict[str, Any] = {"lfm2": {"layer_types": ["conv", "full_attention", "conv", "conv"]}}


def shapes(model_type: str) -> Any:
    config = AutoConfig.for_model(model_type, num_hidden_layers=4, **ABOUT.get(model_type, {}))
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def leaves(names: Any) -> set[str]:
    return {name.rpartition(".")[2] for name in names}


@pytest.mark.parametrize("model_type", KINDS)
def test_every_preset_means_the_modules_of_its_kind(model_type: str) -> None:
    model = shapes(model_type)
    attention, mlp, qv, others = (set(names.split()) for names in KINDS[model_type])
    found = {"all-linear": attention | mlp | others, "attention": attention, "mlp": mlp, "qv": qv}
    for preset, wanted in found.items():
        if wanted:
            assert leaves(find(model, preset).modules) == wanted, preset
        else:
            with pytest.raises(ConfigError, match="matches none of"):
                find(model, preset)


@pytest.mark.parametrize("model_type", sorted(KINDS.keys()))
def test_routed_experts_are_adapted_when_asked_and_routers_never(model_type: str) -> None:
    model = shapes(model_type)
    if model_type not in ROUTED:
        with pytest.raises(ConfigError, match="must have routed experts"):
            find(model, "all-linear", experts=True)
        return
    found = find(model, "all-linear", experts=True)
    weights = [name for name, p in model.named_parameters() if ".experts." in name and p.dim() == 3]
    assert set(found.parameters) == set(weights)
    assert not any("router" in name or name.endswith(".gate") for name in found.modules)


def test_a_wrapper_adapts_its_text_alone() -> None:
    config = AutoConfig.for_model("gemma3", text_config={"num_hidden_layers": 2})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    names = find(model, "all-linear").modules
    assert len(names) == 2 * 7
    assert all(".language_model." in name for name in names)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("q_proj,lm_head", "lm_head is the head, which is not trained"),
        ("embed_tokens", "embed_tokens is the embedding, which is not trained"),
        ("q_porj", "q_porj is not there (did you mean q_proj?)"),
        ("experts.gate_up_proj", "which search.experts: true adapts: leave it out"),
        ("re:.*(q_proj|lm_head)", "matches lm_head of Qwen3MoeForCausalLM (qwen3_moe)"),
        ("re:.*embed.*", "matches model.embed_tokens of Qwen3MoeForCausalLM (qwen3_moe)"),
        ("mlp.gate", "mlp.gate is a router, which is never adapted"),
        ("self_attn", "self_attn is no linear layer that is called (Qwen3MoeAttention)"),
        ("re:.*nothing", "matches none of Qwen3MoeForCausalLM (qwen3_moe)"),
        ("mlp", "It has attention (4 each of q_proj, k_proj, v_proj, o_proj), and routed experts"),
    ],
)
def test_what_cannot_be_adapted_is_said(target: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        find(shapes("qwen3_moe"), target)
    assert words in str(error.value)


def test_names_may_be_whole_or_ends_or_a_pattern() -> None:
    model = shapes("llama")
    assert list(find(model, "model.layers.1.mlp.up_proj").modules) == ["model.layers.1.mlp.up_proj"]
    assert len(find(model, "1.mlp.up_proj,q_proj").modules) == 5
    assert len(find(model, r"re:model\.layers\.[01]\..*_proj").modules) == 14
    assert len(adaptable(model)) == 4 * 7


def test_a_router_is_known_by_its_outputs_whatever_its_name() -> None:
    model = shapes("qwen3_moe")
    block = model.model.layers[0].mlp
    block.chooser = torch.nn.Linear(8, model.config.num_experts, device="meta")
    block.lift = torch.nn.Linear(8, 24, device="meta")
    assert {name for name in adaptable(model) if ".layers.0.mlp." in name} == {
        "model.layers.0.mlp.lift"
    }


@pytest.mark.parametrize(
    ("model_type", "without"),
    [("deepseek_v32", "indexer"), ("phi4_multimodal", "embed"), ("modernbert-decoder", "head")],
)
def test_every_adapted_layer_sees_a_gradient(model_type: str, without: str) -> None:
    names = list(adaptable(shapes(model_type)))
    assert len(names) >= 4 * 4
    assert not any(without in name for name in names)


def test_experts_are_known_by_the_router_beside_them() -> None:
    found = find(shapes("jetmoe"), "all-linear", experts=True).parameters
    assert leaves(name.removesuffix(".weight") for name in found) == {
        "input_linear",
        "output_linear",
    }
    assert sum(".mlp." in name for name in found) == 2 * 4
