"""Tiny models with towers for images, as people publish them: random weights, and a processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests import tiny

TEXT = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 2,
}
_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
VISION = {**_SIZES, "num_hidden_layers": 1, "image_size": 28, "patch_size": 14}
QWEN_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "depth": 1,
    "out_hidden_size": 64,
}
IMAGE = {"image_token_index": 127}
QWEN_IMAGE = {
    "image_token_id": 127,
    "video_token_id": 126,
    "vision_start_token_id": 125,
    "vision_end_token_id": 124,
}
MROPE = {"rope_type": "default", "rope_theta": 10000.0}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
WRAPPERS: dict[str, dict[str, Any]] = {
    "mistral3": {
        "text_config": {**TEXT, "model_type": "mistral"},
        "vision_config": {**VISION, "model_type": "pixtral", "head_dim": 16},
        **IMAGE,
    },
    "llava": {
        "text_config": {**TEXT, "model_type": "llama"},
        "vision_config": {**VISION, "model_type": "clip_vision_model"},
        **IMAGE,
    },
    "qwen2_5_vl": {
        "text_config": {**TEXT, "rope_parameters": {**MROPE, "mrope_section": [2, 3, 3]}},
        "vision_config": QWEN_VISION,
        **QWEN_IMAGE,
    },
    "qwen3_5": {
        "text_config": {
            **TEXT,
            **LINEAR,
            "rope_parameters": {**MROPE, "partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]},
        },
        "vision_config": {**QWEN_VISION, "num_position_embeddings": 16},
        **QWEN_IMAGE,
    },
    "gemma3": {
        "text_config": {**TEXT, "sliding_window": 16},
        "vision_config": {**VISION, "model_type": "siglip_vision_model"},
        "mm_tokens_per_image": 4,
        "boi_token_index": 125,
        "eoi_token_index": 126,
        **IMAGE,
    },
    # Its layers have heads of two widths.
    "gemma4": {
        "text_config": {
            **TEXT,
            "global_head_dim": 32,
            "layer_types": ["sliding_attention", "full_attention"],
            "sliding_window": 16,
            "vocab_size_per_layer_input": 128,
            "hidden_size_per_layer_input": 16,
        },
        "vision_config": {**VISION, "head_dim": 16, "num_key_value_heads": 2},
        **dict.fromkeys(("image_token_id", "video_token_id", "audio_token_id"), 127),
        "boi_token_id": 125,
        "eoi_token_id": 126,
    },
}
TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}"


def make(kind: str, folder: Path) -> Path:
    """Save the model in 16 bits, with a tokenizer and the files of a processor."""
    import torch
    from transformers import AutoConfig, AutoModelForMultimodalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **WRAPPERS[kind])
    model = AutoModelForMultimodalLM.from_config(config, dtype=torch.float32)
    model.to(torch.bfloat16).save_pretrained(folder)
    tiny.make_tokenizer().save_pretrained(folder)
    about = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 28}}
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return folder
