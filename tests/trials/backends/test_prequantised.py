"""Checkpoints that are quantised already: their own weights are trained on, or none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from transformers import AutoModelForCausalLM

from tests import prequantised, tiny
from trials.backends.proof import content_hash
from trials.config import ComputeDtype, ConfigError, Quantization
from trials.data.batches import collate
from trials.data.tokens import TokenRows

Write = Callable[[Path, Path], Path]


def base_loss(folder: Path, quantization: Quantization, dtype: ComputeDtype, rows: Any) -> float:
    config = tiny.model_config(folder)
    model = replace(config, quantization=quantization, compute_dtype=dtype)
    base = tiny.transformers_base(model)
    return sum(float(base.nll_sum(base.model, collate([row]))) for row in rows)


@torch.no_grad()
def plain_loss(folder: Path, dtype: torch.dtype, rows: Any) -> float:
    """As transformers loads the folder by itself, one row at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map={"": "cpu"})
    for layer in model.modules():
        if isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = False  # a kernel that trials cannot use
    total = 0.0
    for row in (collate([row]) for row in rows):
        with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
            logits = model(input_ids=row["input_ids"]).logits[0, :-1].float()
        labels = row["labels"][0, 1:]
        total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
    return total


KINDS: list[tuple[Write, Quantization]] = [
    (prequantised.nf4, "nf4"),
    (prequantised.int8, "int8"),
    (prequantised.fp8, "none"),
    (prequantised.mxfp4, "none"),
]


@pytest.mark.parametrize(
    ("write", "quantization"), KINDS, ids=lambda v: getattr(v, "__name__", "in")
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_base_loss_is_that_of_plain_transformers(
    tiny_base: Path,
    tiny_data: Path,
    tmp_path: Path,
    write: Write,
    quantization: Quantization,
    dtype: ComputeDtype,
) -> None:
    base = tiny_base
    if write is prequantised.mxfp4:
        base = prequantised.tiny_gpt_oss(tiny_base, tmp_path / "plain")
    folder = write(base, tmp_path / "quantised")
    sample = TokenRows(tiny_data / "sample", 64)
    rows = [sample[i] for i in range(6)]
    expected = plain_loss(folder, getattr(torch, dtype), rows)
    tolerance = 1e-5 if dtype == "float32" else 0.01
    # The 8-bit product works in float16, and the trial's rows may be cut into other batches.
    tolerance = 1e-3 if (quantization, dtype) == ("int8", "float32") else tolerance
    assert base_loss(folder, quantization, dtype, rows) == pytest.approx(expected, rel=tolerance)
    if quantization == "none":  # what is dequantised is near what it was made from
        before = plain_loss(base, getattr(torch, dtype), rows)
        assert expected == pytest.approx(before, rel=0.1)


def test_what_is_dequantised_is_the_same_at_every_load(tiny_base: Path, tmp_path: Path) -> None:
    folder = prequantised.mxfp4(
        prequantised.tiny_gpt_oss(tiny_base, tmp_path / "plain"), tmp_path / "mxfp4"
    )
    model = replace(tiny.model_config(folder), quantization="none")
    one, other = (content_hash(tiny.transformers_base(model).model) for _ in range(2))
    assert one == other


def test_weights_that_are_missing_are_an_error_and_are_not_drawn(
    tiny_base: Path, tmp_path: Path
) -> None:
    def without(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        return {} if name.endswith("0.mlp.up_proj.weight") else {name: weight}

    folder = prequantised.rewritten(tiny_base, tmp_path / "lacks", without)
    with pytest.raises(ConfigError, match=r"1 are missing \(model.layers.0.mlp.up_proj.weight\)"):
        tiny.transformers_base(replace(tiny.model_config(folder), quantization="none"))


def test_weights_of_another_shape_are_an_error(tiny_base: Path, tmp_path: Path) -> None:
    def cut(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: weight[:-8] if name.endswith("0.mlp.up_proj.weight") else weight}

    folder = prequantised.rewritten(tiny_base, tmp_path / "cut", cut)
    with pytest.raises(ConfigError, match=r"1 have another shape \(model.layers.0.mlp.up_proj"):
        tiny.transformers_base(replace(tiny.model_config(folder), quantization="none"))


def test_weights_that_are_left_out_are_listed(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def more(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        extra = {"mtp.head.weight": weight} if name == "model.norm.weight" else {}
        return {name: weight, **extra}

    folder = prequantised.rewritten(tiny_base, tmp_path / "more", more)
    tiny.transformers_base(replace(tiny.model_config(folder), quantization="none"))
    assert "that the model does not use: mtp.head.weight" in capsys.readouterr().out


def test_another_form_is_refused_at_load_too(tiny_base: Path, tmp_path: Path) -> None:
    folder = prequantised.int8(tiny_base, tmp_path / "int8")
    with pytest.raises(ConfigError, match="must be int8 or left out"):
        tiny.transformers_base(replace(tiny.model_config(folder), quantization="none"))


def test_modules_that_a_checkpoint_left_in_16_bits_are_estimated_so(
    tiny_base: Path, tmp_path: Path
) -> None:
    from trials.memory.estimate import weight_sizes
    from trials.models.shapes import on_meta

    def weight_bytes(**about: Any) -> float:
        nf4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
        prequantised.say_quantised(folder, nf4 | about)
        model = tiny.model_config(folder)
        return weight_sizes(on_meta(model), model).n_bytes

    folder = tmp_path / "model"
    shutil.copytree(tiny_base, folder)
    left = weight_bytes(llm_int8_skip_modules=["model.layers.0.mlp"]) - weight_bytes()
    assert left == pytest.approx(3 * 64 * 192 * (2 - 0.5 - 0.127 / 8))
