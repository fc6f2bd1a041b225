"""Whether a checkpoint's headers have every weight of its model, before anything is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import prequantised, tiny
from trials.config import ConfigError, ModelConfig
from trials.models.shapes import on_meta
from trials.models.weights import check_headers
from trials.preparation.model_checks import weight_files


def check(folder: Path, **changes: Any) -> None:
    model: ModelConfig = replace(tiny.model_config(folder), **changes)
    check_headers(on_meta(model), model, weight_files(model))


def without(end: str) -> Callable[[str, torch.Tensor], dict[str, torch.Tensor]]:
    return lambda name, weight: {} if name.endswith(end) else {name: weight}


def test_a_whole_checkpoint_with_tied_weights_passes(tiny_base: Path) -> None:
    check(tiny_base)


def test_a_missing_weight_is_told_before_anything_is_loaded(
    tiny_base: Path, tmp_path: Path
) -> None:
    folder = prequantised.rewritten(tiny_base, tmp_path / "lacks", without("0.mlp.up_proj.weight"))
    with pytest.raises(ConfigError, match=r"1 are missing \(model.layers.0.mlp.up_proj.weight\)"):
        check(folder)


def test_a_weight_of_another_shape_is_told(tiny_base: Path, tmp_path: Path) -> None:
    def cut(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: weight[:-8] if name.endswith("0.mlp.up_proj.weight") else weight}

    with pytest.raises(ConfigError, match=r"1 have another shape \(model.layers.0.mlp.up_proj"):
        check(prequantised.rewritten(tiny_base, tmp_path / "cut", cut))


@pytest.mark.parametrize("write", [prequantised.fp8, prequantised.mxfp4])
def test_what_is_dequantised_is_checked_with_its_scales_in_mind(
    tiny_base: Path, tmp_path: Path, write: Callable[[Path, Path], Path]
) -> None:
    base = tiny_base
    if write is prequantised.mxfp4:
        base = prequantised.tiny_gpt_oss(tiny_base, tmp_path / "plain")
    folder = write(base, tmp_path / "whole")
    check(folder, quantization="none")
    about = json.loads((folder / "config.json").read_text())["quantization_config"]
    lacks = prequantised.rewritten(folder, tmp_path / "lacks", without("0.self_attn.q_proj.weight"))
    assert about["quant_method"] in ("fp8", "mxfp4")
    with pytest.raises(ConfigError, match=r"1 are missing \(model.layers.0.self_attn.q_proj"):
        check(lacks, quantization="none")


def test_an_fp8_weight_without_its_scales_is_told(tiny_base: Path, tmp_path: Path) -> None:
    folder = prequantised.fp8(tiny_base, tmp_path / "fp8")
    scale = "0.mlp.up_proj.weight_scale_inv"
    lacks = prequantised.rewritten(folder, tmp_path / "lacks", without(scale))
    with pytest.raises(ConfigError, match=re.escape(f"1 are missing (model.layers.{scale})")):
        check(lacks, quantization="none")


def test_fp8_blocks_that_end_within_one_are_told(tiny_base: Path, tmp_path: Path) -> None:
    def of_five(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        is_scale = name.endswith("0.mlp.up_proj.weight_scale_inv")
        return {name: weight.new_ones(5, 2) if is_scale else weight}

    folder = prequantised.fp8(tiny_base, tmp_path / "fp8")
    with pytest.raises(ConfigError, match="1 weights end within one"):
        check(prequantised.rewritten(folder, tmp_path / "r", of_five), quantization="none")


def test_what_bitsandbytes_has_packed_is_left_to_the_load(tiny_base: Path, tmp_path: Path) -> None:
    check(prequantised.nf4(tiny_base, tmp_path / "nf4"))
