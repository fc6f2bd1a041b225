"""What a config.json says of its weights, and which `quantization` goes with them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import model_config
from trials.config import ConfigError, Quantization
from trials.models.checkpoint import check_form, form_in, form_of

NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
FP4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}
INT8 = {"load_in_8bit": True}  # older ones name no method


def told(about: dict[str, Any] | None, quantization: Quantization, backend: str = "") -> str | None:
    form = form_in({} if about is None else {"quantization_config": about})
    model = replace(model_config(Path("org/model")), quantization=quantization)
    try:
        check_form(replace(model, backend="unsloth") if backend else model, form)
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("about", "quantization"),
    [
        (None, "nf4"),
        (None, "int8"),
        (None, "none"),
        (NF4, "nf4"),
        (INT8, "int8"),
        ({"quant_method": "fp8"}, "none"),
        ({"quant_method": "mxfp4"}, "none"),
    ],
)
def test_the_own_form_is_taken(about: dict[str, Any] | None, quantization: Quantization) -> None:
    assert told(about, quantization) is None


@pytest.mark.parametrize(
    ("about", "quantization", "words"),
    [
        (NF4, "int8", "must be nf4 or left out, since org/model is quantised already"),
        (NF4, "none", "must be nf4 or left out"),
        (INT8, "none", "must be int8 or left out"),
        ({"quant_method": "fp8"}, "nf4", r"must be none \(turned into 16 bits\) or left out"),
        ({"quant_method": "mxfp4"}, "int8", r"must be none \(turned into 16 bits\) or left out"),
        (FP4, "nf4", "quantised as 4-bit FP4 of bitsandbytes, which cannot be trained here"),
        *(
            ({"quant_method": name}, "nf4", f"quantised as {name}, which cannot be trained here")
            for name in ("gptq", "awq", "compressed-tensors", "exl3")
        ),
    ],
)
def test_another_form_is_refused_with_the_mend(
    about: dict[str, Any], quantization: Quantization, words: str
) -> None:
    said = str(told(about, quantization))
    assert re.search(words, said), said
    assert "name the checkpoint that it was made from, in 16 bits" in said


def test_unsloth_is_not_asked_to_turn_fp8_into_16_bits() -> None:
    assert "write backend: transformers" in str(told({"quant_method": "fp8"}, "none", "unsloth"))


def test_older_and_nested_ways_to_say_it_are_seen(tmp_path: Path) -> None:
    ways: list[dict[str, Any]] = [
        {"compression_config": {"quant_method": "x"}},
        {"text_config": {"quantization_config": NF4}},
    ]
    assert [form_in(way) is None for way in ways] == [False, False]
    (tmp_path / "config.json").write_text(json.dumps(ways[1]))
    found = form_of(str(tmp_path), None)
    assert found is not None and found.loads_as == "nf4"


def test_what_cannot_be_read_is_left_to_whoever_loads_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    assert form_of(str(tmp_path), None) is None
    assert form_of("org/not-there", None) is None
