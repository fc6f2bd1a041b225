"""Tiny configurations of the architectures that people fine-tune: a layer or two of each kind."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VOCABULARY = 512

COMMON: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "num_local_experts": 4,
    "num_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
"""Given to each configuration that knows the name."""

ALWAYS: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    # As large as in a trained model: near 0, attention sees every token alike.
    "initializer_range": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """How to make a tiny configuration of an architecture."""

    model_type: str
    """As transformers names it."""
    own: Mapping[str, Any] = field(default_factory=dict)
    """Settings beside the common ones, or in their place; of a wrapper, its own alone."""
    text: Architecture | None = None
    """Of a model that also sees or hears: its text part."""
    vision: Mapping[str, Any] | None = None
    """Of the same: its tower's settings."""
    bare: bool = False
    """Whether it has other names for the common settings, and gets none of them."""


def tiny_config(name: str) -> Any:
    """Return the configuration of transformers."""
    return _made(ARCHITECTURES[name])


def _made(architecture: Architecture) -> Any:
    from transformers import AutoConfig

    own = copy.deepcopy(dict(architecture.own))
    if architecture.text is not None:
        text = _made(architecture.text)
        is_tied = getattr(text, "tie_word_embeddings", False)
        parts = {"text_config": text.to_dict(), "tie_word_embeddings": is_tied}
        if architecture.vision is not None:
            parts["vision_config"] = copy.deepcopy(dict(architecture.vision))
        return AutoConfig.for_model(architecture.model_type, **parts, **own)
    usual = AutoConfig.for_model(architecture.model_type)
    known = {*usual.to_dict(), *getattr(usual, "attribute_map", {})}
    common = {} if architecture.bare else COMMON
    given = {key: value for key, value in {**common, **ALWAYS}.items() if key in known}
    # None: the configuration is to say nothing of it.
    given = {key: value for key, value in {**given, **own}.items() if value is not None}
    return AutoConfig.for_model(architecture.model_type, **given)


def _text(model_type: str, **own: Any) -> Architecture:
    return Architecture(model_type, own)


def _bare(model_type: str, **own: Any) -> Architecture:
    return Architecture(model_type, own, bare=True)


def _sees(
    model_type: str, text: Architecture, vision: Mapping[str, Any] | None, **own: Any
) -> Architecture:
    return Architecture(model_type, own, text=text, vision=vision)


TIED = {"tie_word_embeddings": True}
SLIDING = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
TWO_KINDS = ["linear_attention", "full_attention"]
DELTA_NET = {
    "layer_types": TWO_KINDS,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
MAMBA2 = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 16,
}
LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "head_dim": 8,
    "num_key_value_heads": 4,
}
ONE_GROUP = {"n_group": 1, "topk_group": 1}
SHARED = {**ONE_GROUP, "n_shared_experts": 1, "first_k_dense_replace": 1}
DEEPSEEK = {**LATENT, **SHARED}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}
SCALED = {"embedding_multiplier": 12.0, "logits_scaling": 8.0, "residual_multiplier": 0.22}
GRANITE = {**SCALED, "attention_multiplier": 0.25, **TIED}
LLAMA4 = {
    "intermediate_size_mlp": 128,
    "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 2,
    "moe_layers": [1],
    "attention_chunk_size": 16,
    "no_rope_layers": [1, 0],
    "layer_types": ["chunked_attention", "full_attention"],
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 1e4,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MISTRAL_ROPE = {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}
GEMMA4 = {
    **TIED,
    **SLIDING,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 16,
    "global_head_dim": 16,
}
GEMMA3N = {
    **TIED,
    "num_hidden_layers": 4,
    "sliding_window": 16,
    "layer_types": SLIDING["layer_types"] * 2,  # type: ignore[operator]
    "intermediate_size": [128] * 4,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 16,
    "num_kv_shared_layers": 2,
    "laurel_rank": 8,
    "activation_sparsity_pattern": [0.5, 0.5, 0.0, 0.0],
}
MINISTRAL3 = _text("ministral3", rope_parameters=MISTRAL_ROPE)


def _sections(*sections: int, **own: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections)}
    return {"rope_parameters": {**rope, **own}}


QWEN3_5_ROPE = _sections(2, 1, 1, partial_rotary_factor=0.5)

# Towers of two small layers.
PLAIN_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
SIGLIP = {**PLAIN_TOWER, "model_type": "siglip_vision_model"}
CLIP = {**PLAIN_TOWER, "model_type": "clip_vision_model"}
PIXTRAL = {**PLAIN_TOWER, "model_type": "pixtral", "head_dim": 16}
QWEN_TOWER = {
    "hidden_size": 32,
    "out_hidden_size": 64,
    "depth": 2,
    "num_heads": 2,
    "intermediate_size": 64,
}
QWEN3_TOWER = {**QWEN_TOWER, "num_position_embeddings": 16}
IMAGE_IDS = {
    "image_token_id": 510,
    "video_token_id": 511,
    "vision_start_token_id": 508,
    "vision_end_token_id": 509,
}

ARCHITECTURES: Mapping[str, Architecture] = {
    # Llama and its like: dense, with attention to all or to a window.
    "llama": _text("llama", rope_parameters=LLAMA3_ROPE, **TIED),
    "mistral": _text("mistral", sliding_window=16),
    "ministral": _text("ministral", **SLIDING),
    "ministral3": MINISTRAL3,
    "qwen2": _text("qwen2", **TIED),
    "qwen3": _text("qwen3"),
    "gemma": _text("gemma", **TIED),
    "gemma2": _text(
        "gemma2",
        query_pre_attn_scalar=16,
        final_logit_softcapping=3.0,
        attn_logit_softcapping=5.0,
        **SLIDING,
        **TIED,
    ),
    "gemma3_text": _text("gemma3_text", query_pre_attn_scalar=16, **SLIDING, **TIED),
    "gemma3n_text": _text("gemma3n_text", **GEMMA3N),
    "gemma4_text": _text("gemma4_text", **GEMMA4),
    "vaultgemma": _text("vaultgemma", query_pre_attn_scalar=16, **SLIDING, **TIED),
    "phi": _text("phi", partial_rotary_factor=0.5),
    "phi3": _text("phi3"),
    "glm": _text("glm"),
    "glm4": _text("glm4"),
    "olmo": _text("olmo"),
    "olmo2": _text("olmo2"),
    "olmo3": _text("olmo3", **SLIDING),
    "granite": _text("granite", **GRANITE),
    "smollm3": _text("smollm3", no_rope_layers=[1, 0], layer_types=["full_attention"] * 2, **TIED),
    "stablelm": _text("stablelm", partial_rotary_factor=0.25),
    "starcoder2": _text("starcoder2", sliding_window=16, **TIED),
    "cohere": _text("cohere", logit_scale=0.25, **TIED),
    "cohere2": _text("cohere2", logit_scale=0.25, **SLIDING, **TIED),
    "nemotron": _text("nemotron"),
    "exaone4": _text("exaone4", **SLIDING),
    "hunyuan_v1_dense": _text("hunyuan_v1_dense"),
    "ernie4_5": _text("ernie4_5"),
    "seed_oss": _text("seed_oss"),
    "apertus": _text("apertus"),
    "arcee": _text("arcee"),
    "helium": _text("helium"),
    "cwm": _text("cwm", **SLIDING),
    "jais2": _text("jais2"),
    "nanochat": _text("nanochat"),
    "bitnet": _text("bitnet"),
    "minicpm3": _text("minicpm3", **LATENT),
    "youtu": _text("youtu", **LATENT),
    # Older ones, with other names for the same layers.
    "gpt2": _bare("gpt2", **GPT2, **TIED),
    "gpt_bigcode": _bare("gpt_bigcode", **GPT2, **TIED),
    "gptj": _bare("gptj", rotary_dim=8, **GPT2),
    "codegen": _bare("codegen", rotary_dim=8, **GPT2),
    "gpt_neo": _text(
        "gpt_neo",
        attention_types=[[["global", "local"], 1]],
        num_layers=2,
        num_heads=4,
        window_size=16,
        **TIED,
    ),
    "gpt_neox": _text("gpt_neox"),
    "opt": _text("opt", ffn_dim=128, word_embed_proj_dim=64, init_std=0.1, **TIED),
    "xglm": _text("xglm", ffn_dim=128, attention_heads=4, d_model=64, num_layers=2, **TIED),
    "biogpt": _text("biogpt", **TIED),
    "persimmon": _text("persimmon"),
    "bloom": _bare("bloom", hidden_size=64, n_layer=2, n_head=4, **TIED),
    "falcon": _text("falcon", new_decoder_architecture=True, num_kv_heads=2, alibi=False, **TIED),
    "falcon_alibi": _text("falcon", alibi=True, multi_query=False, parallel_attn=False, **TIED),
    "mpt": _bare("mpt", d_model=64, n_heads=4, n_layers=2, max_seq_len=256, **TIED),
    # Experts that a router chooses.
    "mixtral": _text("mixtral"),
    "qwen2_moe": _text("qwen2_moe"),
    "qwen3_moe": _text("qwen3_moe"),
    "deepseek_v2": _text("deepseek_v2", topk_method="greedy", **DEEPSEEK),
    "deepseek_v3": _text("deepseek_v3", **DEEPSEEK),
    "mistral4": _text(
        "mistral4", rope_parameters={**MISTRAL_ROPE, "partial_rotary_factor": 0.33}, **DEEPSEEK
    ),
    "glm4_moe": _text("glm4_moe", **SHARED),
    "glm4_moe_lite": _text(
        "glm4_moe_lite",
        mlp_layer_types=["dense", "sparse"],
        n_shared_experts=1,
        **LATENT,
        **ONE_GROUP,
    ),
    "gpt_oss": _text("gpt_oss", rope_parameters={**YARN, "truncate": False}, **SLIDING),
    "phimoe": _text("phimoe"),
    "olmoe": _text("olmoe"),
    "flex_olmo": _text("flex_olmo"),
    "granitemoe": _text("granitemoe", intermediate_size=32, logits_scaling=8.0),
    "granitemoeshared": _text(
        "granitemoeshared", intermediate_size=32, shared_intermediate_size=32, logits_scaling=8.0
    ),
    "hunyuan_v1_moe": _text("hunyuan_v1_moe", moe_topk=2),
    "minimax_m2": _text("minimax_m2"),
    "ernie4_5_moe": _text(
        "ernie4_5_moe",
        moe_num_experts=4,
        moe_k=2,
        moe_num_shared_experts=1,
        moe_layer_start_index=1,
    ),
    "dots1": _text("dots1", layer_types=["full_attention"] * 2, **SHARED),
    "llama4_text": _text("llama4_text", floor_scale=8, **LLAMA4),
    "jetmoe": _text("jetmoe", kv_channels=16, num_key_value_heads=2),
    "exaone_moe": _text(
        "exaone_moe",
        mlp_layer_types=["dense", "sparse"],
        num_shared_experts=1,
        **ONE_GROUP,
        **SLIDING,
    ),
    "solar_open": _text("solar_open", n_shared_experts=1, **ONE_GROUP),
    "afmoe": _text("afmoe", num_dense_layers=1, num_shared_experts=1, **SLIDING),
    # States beside attention, or instead of it.
    "qwen3_next": _text("qwen3_next", **DELTA_NET),
    "qwen3_5_text": _text("qwen3_5_text", **DELTA_NET),
    "qwen3_5_moe_text": _text("qwen3_5_moe_text", **DELTA_NET),
    "olmo_hybrid": _text("olmo_hybrid", **DELTA_NET),
    "kimi_linear": _text(
        "kimi_linear",
        **{**DEEPSEEK, "q_lora_rank": None},
        layer_types=TWO_KINDS,
        linear_head_dim=16,
        linear_num_heads=4,
        mlp_layer_types=["dense", "sparse"],
        num_experts_per_token=2,
        num_expert_group=1,
    ),
    "minimax": _text("minimax", layer_types=TWO_KINDS, block_size=16),
    "granitemoehybrid": _text(
        "granitemoehybrid",
        **MAMBA2,
        **GRANITE,
        intermediate_size=32,
        shared_intermediate_size=32,
        layer_types=TWO_KINDS,
        position_embedding_type="nope",
    ),
    "falcon_h1": _text(
        "falcon_h1", mamba_d_ssm=128, lm_head_multiplier=0.5, embedding_multiplier=3.0, **MAMBA2
    ),
    "bamba": _text("bamba", attn_layer_indices=[1], **MAMBA2),
    "nemotron_h": _text(
        "nemotron_h",
        layers_block_type=["linear_attention", "mlp", "full_attention", "moe"],
        num_hidden_layers=None,
        ssm_state_size=16,
        mamba_num_heads=8,
        mamba_head_dim=16,
        n_groups=1,
        chunk_size=16,
        moe_shared_expert_intermediate_size=32,
    ),
    "jamba": _text(
        "jamba",
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        mamba_d_state=8,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
    ),
    "zamba2": _text(
        "zamba2",
        **MAMBA2,
        num_hidden_layers=4,
        mamba_ngroups=1,
        n_mamba_heads=8,
        mamba_headdim=16,
        chunk_size=16,
        layers_block_type=["mamba", "hybrid"] * 2,
        num_mem_blocks=1,
        adapter_rank=8,
        use_mem_rope=True,
        attention_head_dim=32,
        attention_hidden_size=128,
        num_key_value_heads=4,
    ),
    "recurrent_gemma": _text(
        "recurrent_gemma",
        num_hidden_layers=3,
        lru_width=64,
        attention_window_size=16,
        block_types=["recurrent", "recurrent", "attention"],
        **TIED,
    ),
    "lfm2": _text(
        "lfm2", block_auto_adjust_ff_dim=False, layer_types=["conv", "full_attention"], **TIED
    ),
    "lfm2_moe": _text(
        "lfm2_moe", num_dense_layers=1, layer_types=["conv", "full_attention"], **TIED
    ),
    "mamba": _text("mamba", state_size=8, time_step_rank=4),
    "mamba2": _text("mamba2", num_heads=8, state_size=16, n_groups=1, chunk_size=16),
    "falcon_mamba": _text("falcon_mamba", state_size=8, time_step_rank=4),
    "xlstm": _text("xlstm", num_heads=4, num_blocks=2, embedding_dim=64),
    "rwkv": _text("rwkv", attention_hidden_size=64, context_length=256),
    # Text models with a tower of images.
    "gemma3": _sees(
        "gemma3",
        _text("gemma3_text", query_pre_attn_scalar=16, **SLIDING, **TIED),
        SIGLIP,
        mm_tokens_per_image=4,
        image_token_index=510,
        boi_token_index=508,
        eoi_token_index=509,
    ),
    "gemma4": _sees(
        "gemma4",
        _text("gemma4_text", **GEMMA4),
        None,
        image_token_id=510,
        boi_token_id=508,
        eoi_token_id=509,
        video_token_id=507,
        boa_token_id=506,
        eoa_token_index=505,
        audio_token_id=504,
    ),
    "paligemma": _sees(
        "paligemma",
        _text("gemma", **TIED),
        {**SIGLIP, "projection_dim": 64},
        projection_dim=64,
        image_token_index=510,
    ),
    "qwen2_vl": _sees(
        "qwen2_vl",
        _text("qwen2_vl_text", **_sections(2, 3, 3)),
        {"embed_dim": 32, "hidden_size": 64, "depth": 2, "num_heads": 2, "mlp_ratio": 2},
        **IMAGE_IDS,
    ),
    "qwen2_5_vl": _sees(
        "qwen2_5_vl", _text("qwen2_5_vl_text", **_sections(2, 3, 3)), QWEN_TOWER, **IMAGE_IDS
    ),
    "qwen3_vl": _sees(
        "qwen3_vl",
        _text("qwen3_vl_text", **_sections(2, 3, 3)),
        {**QWEN3_TOWER, "deepstack_visual_indexes": [0]},
        **IMAGE_IDS,
    ),
    "qwen3_vl_moe": _sees(
        "qwen3_vl_moe",
        _text("qwen3_vl_moe_text", **_sections(2, 3, 3)),
        {**QWEN3_TOWER, "deepstack_visual_indexes": [0]},
        **IMAGE_IDS,
    ),
    "qwen3_5": _sees(
        "qwen3_5", _text("qwen3_5_text", **DELTA_NET, **QWEN3_5_ROPE), QWEN3_TOWER, **IMAGE_IDS
    ),
    "qwen3_5_moe": _sees(
        "qwen3_5_moe",
        _text("qwen3_5_moe_text", **DELTA_NET, **QWEN3_5_ROPE),
        QWEN3_TOWER,
        **IMAGE_IDS,
    ),
    "mistral3": _sees("mistral3", _text("mistral"), PIXTRAL, image_token_index=510),
    "mistral3_ministral3": _sees("mistral3", MINISTRAL3, PIXTRAL, image_token_index=510),
    "llava": _sees("llava", _text("llama"), CLIP, image_token_index=510),
    "llava_next": _sees("llava_next", _text("mistral"), CLIP, image_token_index=510),
    "internvl": _sees(
        "internvl",
        _text("qwen2"),
        {
            **PLAIN_TOWER,
            "image_size": [28, 28],
            "patch_size": [14, 14],
            "model_type": "internvl_vision",
        },
        image_token_id=510,
    ),
    "smolvlm": _sees(
        "smolvlm",
        _text("llama"),
        {**PLAIN_TOWER, "model_type": "smolvlm_vision"},
        image_token_id=510,
        scale_factor=2,
    ),
    "llama4": _sees(
        "llama4",
        _text("llama4_text", **LLAMA4),
        {
            **PLAIN_TOWER,
            "intermediate_size": 128,
            "vision_output_dim": 64,
            "projector_input_dim": 64,
            "projector_output_dim": 64,
        },
        image_token_index=510,
        boi_token_index=508,
        eoi_token_index=509,
    ),
}
