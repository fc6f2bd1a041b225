"""Tiny checkpoints that are quantised already, as people publish them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

FP4_VALUES = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def with_bitsandbytes(base: Path, folder: Path, **settings: Any) -> Path:
    """Quantise a model on the CPU and save it with its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    model = AutoModelForCausalLM.from_pretrained(
        base,
        dtype=torch.bfloat16,
        device_map={"": "cpu"},
        quantization_config=BitsAndBytesConfig(**settings),
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def nf4(base: Path, folder: Path) -> Path:
    kind = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}
    return with_bitsandbytes(
        base, folder, load_in_4bit=True, bnb_4bit_use_double_quant=True, **kind
    )


def int8(base: Path, folder: Path) -> Path:
    return with_bitsandbytes(base, folder, load_in_8bit=True)


def fp8(base: Path, folder: Path) -> Path:
    """Blocks of 32 × 32 with a scale each, as DeepSeek and Qwen publish them."""

    def quantised(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        if not name.endswith("_proj.weight"):
            return {name: weight}
        n_out, n_in = weight.shape
        blocks = weight.float().reshape(n_out // 32, 32, n_in // 32, 32)
        scales = blocks.abs().amax((1, 3)) / 448
        values = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn)
        return {name: values.reshape(n_out, n_in), f"{name}_scale_inv": scales}

    about = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32]}
    return rewritten(base, folder, quantised, about)


def mxfp4(base: Path, folder: Path) -> Path:
    """The experts of a tiny gpt-oss: 32 values of 4 bits share a power of two."""

    def quantised(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        if not name.endswith(("gate_up_proj", "down_proj")):
            return {name: weight}
        groups = weight.float().transpose(1, 2)
        groups = groups.reshape(*groups.shape[:-1], -1, 32)
        power = torch.ceil(torch.log2(groups.abs().amax(-1) / 6))
        nearest = ((groups / 2 ** power[..., None])[..., None] - FP4_VALUES).abs().argmin(-1)
        codes = nearest.to(torch.uint8)
        blocks = codes[..., 0::2] | (codes[..., 1::2] << 4)
        return {f"{name}_blocks": blocks, f"{name}_scales": (power + 127).to(torch.uint8)}

    about = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    return rewritten(base, folder, quantised, about)


def rewritten(
    base: Path,
    folder: Path,
    each: Callable[[str, torch.Tensor], dict[str, torch.Tensor]],
    about: dict[str, Any] | None = None,
) -> Path:
    """Copy a model with other weights in place of each, and say so in its config.json."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, folder)
    weights = load_file(folder / "model.safetensors")
    made = {k: v for name, weight in weights.items() for k, v in each(name, weight).items()}
    # A copy: what a view shows could not be saved.
    made = {name: weight.contiguous().clone() for name, weight in made.items()}
    save_file(made, folder / "model.safetensors", metadata={"format": "pt"})
    if about is not None:
        say_quantised(folder, about)
    return folder


def say_quantised(folder: Path, about: dict[str, Any]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": about}))


def tiny_gpt_oss(base: Path, folder: Path) -> Path:
    """A model of random weights with the experts of gpt-oss, and the tokenizer of `base`."""
    from transformers import AutoTokenizer, GptOssConfig, GptOssForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(0)
    model = GptOssForCausalLM(
        GptOssConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            num_local_experts=2,
            num_experts_per_tok=1,
            initializer_range=0.3,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
