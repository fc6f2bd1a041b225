"""How a checkpoint stores its weights, as its config.json says: plain, or quantised already."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trials.config import ConfigError, ModelConfig, Quantization
from trials.models.smollm2 import CONFIG, is_builtin


@dataclass(frozen=True, slots=True)
class Form:
    """Of weights that are quantised already."""

    name: str
    """As people call it, such as FP8."""
    loads_as: Quantization | None
    """What it is trained in; None: nothing installed here reads it."""
    is_dequantised: bool = False
    """Whether it is turned into 16 bits when it is loaded."""


BY_METHOD = {
    "fp8": Form("FP8", "none", is_dequantised=True),
    "mxfp4": Form("MXFP4", "none", is_dequantised=True),
}
BITSANDBYTES = {
    "nf4": Form("4-bit NF4 of bitsandbytes", "nf4"),
    "fp4": Form("4-bit FP4 of bitsandbytes", None),
    "int8": Form("8-bit integers of bitsandbytes", "int8"),
}


def form_in(config: Mapping[str, Any]) -> Form | None:
    """Return the form that a config.json states; None: plain weights."""
    text = config.get("text_config") or {}
    found = config.get("quantization_config") or text.get("quantization_config")
    found = found or config.get("compression_config")  # of older compressed-tensors
    if not found:
        return None
    if found.get("load_in_4bit"):
        return BITSANDBYTES[found.get("bnb_4bit_quant_type", "fp4")]
    if found.get("load_in_8bit"):
        return BITSANDBYTES["int8"]
    method = str(found.get("quant_method", "unknown"))
    return BY_METHOD.get(method, Form(method, None))


def config_of(name: str, revision: str | None, *, fetches: bool = True) -> dict[str, Any] | None:
    """Return the config.json of a folder or of a model of the hub.

    Of what was fetched already the network is not asked. None where nothing can be read: whoever
    loads it says why.

    Args:
        fetches: Whether the network is asked for what is not here.
    """
    if is_builtin(name):
        return dict(CONFIG)
    folder = Path(name)
    try:
        path = folder / "config.json" if folder.is_dir() else _fetched(name, revision, fetches)
        config = json.loads(path.read_text(encoding="utf-8")) if path is not None else None
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


def form_of(name: str, revision: str | None) -> Form | None:
    """Return the form of a folder or of a model of the hub; None also where none can be read."""
    config = config_of(name, revision)
    return None if config is None else form_in(config)


def _fetched(name: str, revision: str | None, fetches: bool) -> Path | None:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
        if not isinstance(found, str):
            if not fetches:
                return None
            found = hf_hub_download(name, "config.json", revision=revision)
    except (EntryNotFoundError, HFValidationError):
        return None
    return Path(found)


def check_form(model: ModelConfig, form: Form | None) -> None:
    """Refuse what would be trained on other weights than the checkpoint means.

    Raises:
        ConfigError: With the mend.
    """
    if form is None:
        return
    plain = "name the checkpoint that it was made from, in 16 bits"
    if form.loads_as is None:
        raise ConfigError(
            f"base_model: a checkpoint must be in 16 bits, NF4 or 8 bits of bitsandbytes, FP8 or "
            f"MXFP4, but {model.name} is quantised as {form.name}, which cannot be trained here; "
            f"{plain}."
        )
    if model.quantization != form.loads_as:
        own = f"{form.loads_as}{' (turned into 16 bits)' if form.is_dequantised else ''}"
        raise ConfigError(
            f"quantization: must be {own} or left out, since {model.name} is quantised already "
            f"({form.name}), not {model.quantization}; else {plain}."
        )
    if form.is_dequantised and model.backend == "unsloth":
        raise ConfigError(
            f"backend: Unsloth does not turn {form.name} into 16 bits, as {model.name} needs; "
            f"write backend: transformers."
        )
