"""What is said of vLLM before a sweep."""

from __future__ import annotations

import pytest
import transformers
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from trials.models import vllm

LINEAR = ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"]
EXPERTS = ["model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.down_proj"]
MLA = ["model.layers.0.self_attn.kv_b_proj"]


@pytest.mark.parametrize(
    ("model_type", "modules", "parameters", "rank", "use_dora", "words"),
    [
        ("llama", LINEAR, [], 64, True, ["no adapter with use_dora"]),
        ("llama", LINEAR, [], 513, False, ["rank above 512, as 513 is"]),
        ("gpt2", LINEAR, [], 8, False, ["own gpt2 takes no adapter: use `sweep export --merge"]),
        ("mpt", LINEAR, [], 8, False, ["does not serve mpt."]),
        ("deepseek_v3", MLA, [], 8, False, ["adapter of kv_b_proj out when it generates"]),
        ("qwen3_moe", LINEAR, EXPERTS, 8, False, ["only with --enable-mixed-moe-lora-format"]),
        ("gpt_oss", LINEAR, EXPERTS[:1], 8, False, ["gate_up_proj and down_proj are both"]),
        ("mixtral", LINEAR, EXPERTS, 8, False, ["experts' adapter out without a word"]),
        ("nemotron_h", LINEAR, EXPERTS, 8, False, ["does not load the routed experts'"]),
        ("deepseek_v3", MLA, EXPERTS, 8, True, ["use_dora", "kv_b_proj", "--enable-mixed"]),
    ],
)
def test_what_vllm_does_not_load_is_said(
    model_type: str,
    modules: list[str],
    parameters: list[str],
    rank: int,
    use_dora: bool,
    words: list[str],
) -> None:
    said = vllm.notes(model_type, modules, parameters, rank=rank, use_dora=use_dora)
    assert len(said) == len(words)
    assert all(part in note for part, note in zip(words, said, strict=True))


@pytest.mark.parametrize(
    ("model_type", "modules", "parameters"),
    [
        ("llama", LINEAR, []),
        ("gpt_oss", LINEAR, EXPERTS),
        ("minicpm3", MLA, []),
        ("mixtral", LINEAR, []),
        ("falcon_h1", ["model.layers.0.mamba.in_proj"], []),
    ],
)
def test_nothing_is_said_of_what_it_loads(
    model_type: str, modules: list[str], parameters: list[str]
) -> None:
    assert vllm.notes(model_type, modules, parameters, rank=512, use_dora=False) == []


def test_those_not_served_cannot_set_their_attention() -> None:
    """The way in which vLLM asks."""
    for name in vllm.NOT_SERVED:
        found = getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[name])
        assert not (found.is_backend_compatible() or found._can_set_attn_implementation())


def test_the_model_types_are_those_of_transformers() -> None:
    named = vllm.NO_ADAPTERS | vllm.NOT_SERVED | vllm.STACKED_EXPERTS | vllm.OTHER_EXPERT_NAMES
    assert named <= set(CONFIG_MAPPING)
