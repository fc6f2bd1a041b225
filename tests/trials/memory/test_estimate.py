"""The memory estimate beside what transformers makes of a model, and beside a real step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests import tiny
from tests.benchmarks.memory import Shape, guess, held_bytes, most_allocated, two_steps
from trials.config import Quantization
from trials.memory.estimate import WeightSizes, weight_sizes
from trials.models.shapes import on_meta

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 512}
GROUPED = {"num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 128}
KINDS: dict[str, dict[str, Any]] = {
    "llama": SMALL | GROUPED | {"tie_word_embeddings": True},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 512},
    "falcon": SMALL,
    "mamba": {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 512},
    "qwen3_moe": SMALL
    | GROUPED
    | {"num_experts": 4, "moe_intermediate_size": 64, "num_experts_per_tok": 2},
}


def made(kind: str, folder: Path) -> Path:
    config = AutoConfig.for_model(kind, **KINDS[kind])
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def sizes(folder: Path, **changes: Any) -> WeightSizes:
    model = replace(tiny.model_config(folder), **changes)
    return weight_sizes(on_meta(model), model)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_weights_take_what_transformers_makes_of_them(
    tmp_path: Path, kind: str, quantization: str
) -> None:
    folder = made(kind, tmp_path)
    changes: dict[str, Any] = {"quantization": quantization, "compute_dtype": "bfloat16"}
    found = sizes(folder, **changes)
    base = tiny.transformers_base(replace(tiny.model_config(folder), **changes))
    # Of each layer bitsandbytes keeps a table and some scalars, which counts in such small ones.
    assert found.n_bytes == pytest.approx(held_bytes(base.model), rel=0.02, abs=2**16)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_a_token_takes_some_bytes_whatever_the_linear_layers_are(
    tmp_path: Path, kind: str, quantization: Quantization
) -> None:
    model = replace(tiny.model_config(made(kind, tmp_path)), quantization=quantization)
    # Two layers, in each at least one linear of 64 × 64, and the gradient before the head.
    assert tiny.transformers_base(model).activation_bytes_per_token > 2 * 4 * 128 / 1.5


def test_float32_takes_four_bytes(tmp_path: Path) -> None:
    folder = made("llama", tmp_path)
    wide = sizes(folder, quantization="none", compute_dtype="float32")
    assert wide.n_bytes == 2 * sizes(folder, quantization="none").n_bytes


def test_what_is_left_in_16_bits_is_named(tmp_path: Path) -> None:
    assert sizes(made("llama", tmp_path / "llama")).left == {}
    assert set(sizes(made("falcon", tmp_path / "falcon")).left) == {"FalconLinear"}
    assert "Qwen3MoeExperts" in sizes(made("qwen3_moe", tmp_path / "moe")).left


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")  # peft mends it itself
@pytest.mark.parametrize(
    "shape",
    [
        Shape(model_type="llama"),
        Shape(model_type="gpt2"),
        Shape(model_type="llama", dropout=0.1),
        Shape(model_type="llama", use_dora=True, dropout=0.1),
        Shape(model_type="mamba"),  # goes through its tokens one by one
        Shape(model_type="qwen3_moe", experts=True),
        Shape(model_type="qwen3_moe", quantization="none", compute_dtype="float32", experts=True),
    ],
    ids=str,
)
def test_a_step_takes_what_is_estimated(tmp_path: Path, shape: Shape) -> None:
    shape = replace(shape, rank=2, rows=1, length=32)  # else the logits are most of it
    model = tiny.model_config(made(shape.model_type, tmp_path))
    model = replace(model, quantization=shape.quantization, compute_dtype=shape.compute_dtype)
    found = guess(model, shape)
    base = tiny.transformers_base(model)
    peak = most_allocated(lambda: two_steps(base, shape, 512))
    assert 0.95 <= (found["adapter_gib"] + found["activations_gib"]) * 2**30 / peak <= 1.3
