"""Architectures of text models with a tower of images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.zoo.text_models import DELTA_NET, GEMMA4, LLAMA4, MINISTRAL3, SLIDING, TIED
from tests.zoo.tiny_config import Architecture, text_model


def _sees(
    model_type: str, text: Architecture, vision: Mapping[str, Any], **own: Any
) -> Architecture:
    return Architecture(model_type, own, text=text, vision=vision)


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
GEMMA4_TOWER = {
    **PLAIN_TOWER,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "position_embedding_size": 16,
}
IMAGE_IDS = {
    "image_token_id": 510,
    "video_token_id": 511,
    "vision_start_token_id": 508,
    "vision_end_token_id": 509,
}

SEEING_MODELS: Mapping[str, Architecture] = {
    "gemma3": _sees(
        "gemma3",
        text_model("gemma3_text", query_pre_attn_scalar=16, **SLIDING, **TIED),
        SIGLIP,
        mm_tokens_per_image=4,
        image_token_index=510,
        boi_token_index=508,
        eoi_token_index=509,
    ),
    "gemma4": _sees(
        "gemma4",
        text_model("gemma4_text", **GEMMA4),
        GEMMA4_TOWER,
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
        text_model("gemma", **TIED),
        {**SIGLIP, "projection_dim": 64},
        projection_dim=64,
        image_token_index=510,
    ),
    "qwen2_vl": _sees(
        "qwen2_vl",
        text_model("qwen2_vl_text", **_sections(2, 3, 3)),
        {"embed_dim": 32, "hidden_size": 64, "depth": 2, "num_heads": 2, "mlp_ratio": 2},
        **IMAGE_IDS,
    ),
    "qwen2_5_vl": _sees(
        "qwen2_5_vl", text_model("qwen2_5_vl_text", **_sections(2, 3, 3)), QWEN_TOWER, **IMAGE_IDS
    ),
    "qwen3_vl": _sees(
        "qwen3_vl",
        text_model("qwen3_vl_text", **_sections(2, 3, 3)),
        {**QWEN3_TOWER, "deepstack_visual_indexes": [0]},
        **IMAGE_IDS,
    ),
    "qwen3_vl_moe": _sees(
        "qwen3_vl_moe",
        text_model("qwen3_vl_moe_text", **_sections(2, 3, 3)),
        {**QWEN3_TOWER, "deepstack_visual_indexes": [0]},
        **IMAGE_IDS,
    ),
    "qwen3_5": _sees(
        "qwen3_5", text_model("qwen3_5_text", **DELTA_NET, **QWEN3_5_ROPE), QWEN3_TOWER, **IMAGE_IDS
    ),
    "qwen3_5_moe": _sees(
        "qwen3_5_moe",
        text_model("qwen3_5_moe_text", **DELTA_NET, **QWEN3_5_ROPE),
        QWEN3_TOWER,
        **IMAGE_IDS,
    ),
    "mistral3": _sees("mistral3", text_model("mistral"), PIXTRAL, image_token_index=510),
    "mistral3_ministral3": _sees("mistral3", MINISTRAL3, PIXTRAL, image_token_index=510),
    "llava": _sees("llava", text_model("llama"), CLIP, image_token_index=510),
    "llava_next": _sees("llava_next", text_model("mistral"), CLIP, image_token_index=510),
    "internvl": _sees(
        "internvl",
        text_model("qwen2"),
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
        text_model("llama"),
        {**PLAIN_TOWER, "model_type": "smolvlm_vision"},
        image_token_id=510,
        scale_factor=2,
    ),
    "llama4": _sees(
        "llama4",
        text_model("llama4_text", **LLAMA4),
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
