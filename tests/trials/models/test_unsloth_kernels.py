"""Which base models are for Unsloth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from tests.tiny import model_config
from trials.config import ConfigError
from trials.models.checkpoint import config_of
from trials.models.smollm2 import CONFIG, NAME, smollm2_dir
from trials.models.unsloth_kernels import check_kernels, objection

YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}


def told(config: PreTrainedConfig | dict[str, Any], **settings: Any) -> str | None:
    about: dict[str, Any] = {
        "name": "org/model",
        "quantization": "nf4",
        "max_length": 2048,
        "trust_remote_code": False,
        **settings,
    }
    return objection(config if isinstance(config, dict) else config.to_dict(), **about)


@pytest.mark.parametrize(
    "config", [LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config, GemmaConfig, Gemma2Config]
)
def test_those_with_kernels_are(config: type[PreTrainedConfig]) -> None:
    assert told(config()) is None
    assert told(config(), quantization="none") is None


@pytest.mark.parametrize(
    ("config", "settings", "words"),
    [
        (Gemma3TextConfig(), {}, "Unsloth has no kernels of its own for gemma3_text, only for"),
        (Qwen3MoeConfig(), {}, "no kernels of its own for qwen3_moe"),
        ({"model_type": "llava", "text_config": {"model_type": "llama"}}, {}, "for llava"),
        (LlamaConfig(hidden_act="gelu"), {}, "kernels for llama compute silu, not gelu"),
        (GemmaConfig(hidden_act="gelu"), {}, "for gemma compute gelu_pytorch_tanh, not gelu"),
        (Qwen2Config(use_sliding_window=True), {}, "leaves out qwen2's sliding window"),
        ({"model_type": "llama", "rope_scaling": {"type": "dynamic"}}, {}, "dynamic positions of"),
        ({"model_type": "gemma", "rope_parameters": YARN}, {}, "yarn positions of gemma"),
        (LlamaConfig(max_position_embeddings=1024), {}, "changes the positions of a model of 1024"),
        (LlamaConfig(), {"quantization": "int8"}, "no fast path for int8"),
        (LlamaConfig(), {"name": "org/model-BF16"}, "in 16 bits, not in nf4"),
        (
            {"model_type": "llama", "auto_map": {"AutoModelForCausalLM": "own.Model"}},
            {"trust_remote_code": True},
            "do not know the model's own code",
        ),
    ],
)
def test_what_it_would_train_otherwise_is_not(
    config: PreTrainedConfig | dict[str, Any], settings: dict[str, Any], words: str
) -> None:
    assert words in str(told(config, **settings))


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (Qwen3Config(rope_parameters=YARN), {}),
        ({"model_type": "llama", "auto_map": {"AutoModelForCausalLM": "own.Model"}}, {}),
        (LlamaConfig(), {"name": "org/model-bf16", "quantization": "none"}),
    ],
)
def test_what_only_looks_like_it_is(config: Any, settings: dict[str, Any]) -> None:
    assert told(config, **settings) is None


def test_a_worker_refuses_what_the_command_could_not_read(tmp_path: Path) -> None:
    model = replace(model_config(tmp_path), backend="unsloth", quantization="nf4")
    check_kernels(model, None)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ConfigError, match=r"backend: .* for gpt2, .*; write backend: transformers"):
        check_kernels(model, config_of(str(tmp_path), None))


def test_the_built_in_model_is_known_before_it_is_fetched() -> None:
    config = json.loads((smollm2_dir() / "config.json").read_text())
    assert config_of(NAME, None) == CONFIG
    assert {name: config[name] for name in CONFIG} == CONFIG
