"""Whether a checkpoint has every weight of its model: when it is loaded, and before, by headers."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from trials.config import ConfigError, ModelConfig
from trials.models.checkpoint import Form, form_of

MOST_SHOWN = 5
"""Keys of a checkpoint."""

Header = dict[str, dict[str, Any]]
"""Of each tensor its `dtype`, as safetensors calls it, and its `shape`."""


def check_keys(name: str, found: Mapping[str, Any]) -> None:
    """See that a model has its checkpoint's weights, and say what of it is left out.

    Args:
        found: What transformers tells of a load: after its own renaming, without tied weights.

    Raises:
        ConfigError: Weights are missing or of another shape: they would be drawn at random.
    """
    mismatched = [key if isinstance(key, str) else key[0] for key in found["mismatched_keys"]]
    wrong = {"are missing": found["missing_keys"], "have another shape": mismatched}
    told = [f"{len(keys)} {how} ({_shown(keys)})" for how, keys in wrong.items() if keys]
    told += [str(words) for words in found.get("error_msgs", ())]
    if told:
        raise ConfigError(
            f"base_model: every weight must be in the checkpoint, but of {name} "
            f"{'; '.join(told)}. Download it again, or name another checkpoint."
        )
    if unused := found["unexpected_keys"]:
        print(f"weights of {name} that the model does not use: {_shown(unused)}", flush=True)


def _shown(keys: Collection[str]) -> str:
    more = f" and {len(keys) - MOST_SHOWN} more" if len(keys) > MOST_SHOWN else ""
    return ", ".join(sorted(keys)[:MOST_SHOWN]) + more


def check_headers(shapes: Any, model: ModelConfig, files: Sequence[Path]) -> None:
    """Refuse what `check_keys` would refuse of a load, and no weight is read.

    transformers loads the headers' shapes on the meta device, with its own renaming, conversion and
    tied weights. What bitsandbytes has packed, and models with code of their own, are left to the
    load.

    Args:
        shapes: The model on the meta device.
        files: The checkpoint's safetensors; none where they are not on this machine.

    Raises:
        ConfigError: Weights are missing or of another shape, or transformers cannot convert them.
    """
    form = form_of(model.name, model.revision)
    is_packed = form is not None and not form.is_dequantised
    if not files or is_packed or model.trust_remote_code:
        return
    header = {key: about for file in files for key, about in _header(file).items()}
    weights = {
        key: torch.empty(shape, dtype=torch.bfloat16, device="meta")
        for key, shape in _in_16_bits(header, form, model.name)
    }
    config = copy.deepcopy(shapes.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    try:
        _, found = type(shapes).from_pretrained(
            None,
            config=config,
            state_dict=weights,
            device_map={"": "meta"},
            dtype=torch.bfloat16,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except RuntimeError as error:  # experts of unlike shapes, say
        raise ConfigError(
            f"base_model: every weight must fit the model, but transformers cannot convert those "
            f"of {model.name} ({str(error).splitlines()[0]}). Download it again, or name another "
            f"checkpoint."
        ) from None
    check_keys(model.name, found)


def _header(file: Path) -> Header:
    with file.open("rb") as stream:  # 8 bytes of its length, then JSON
        header: Header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    header.pop("__metadata__", None)
    return header


def _in_16_bits(header: Header, form: Form | None, name: str) -> Iterator[tuple[str, list[int]]]:
    """Names and shapes as if the checkpoint had been in 16 bits: FP8 and MXFP4 have scales too."""
    if form is not None and form.name == "FP8":
        _check_scales(header, name)
    for key, about in header.items():
        shape = about["shape"]
        if form is None:
            yield key, shape
        elif key.endswith("_blocks"):  # (experts, outputs, groups, bytes of two values)
            experts, n_out, groups, n_bytes = shape
            yield key.removesuffix("_blocks"), [experts, groups * n_bytes * 2, n_out]
        elif not key.endswith(("_scale", "_scales", "_scale_inv")):
            yield key, shape


def _check_scales(header: Header, name: str) -> None:
    """Of FP8: without its scales a weight is noise; transformers takes blocks of one size only."""
    missing, ragged = [], []
    for key, about in header.items():
        if not about["dtype"].startswith("F8_"):
            continue
        scales = header.get(f"{key}_scale_inv")
        if scales is None:
            missing.append(f"{key}_scale_inv")
        elif any(
            n % (blocks or 1) for n, blocks in zip(about["shape"], scales["shape"], strict=False)
        ):
            ragged.append(key)
    if missing:
        check_keys(name, {"missing_keys": missing, "mismatched_keys": (), "unexpected_keys": ()})
    if ragged:
        raise ConfigError(
            f"base_model: blocks of FP8 must all be of one size for transformers to turn them into "
            f"16 bits, but of {name} {len(ragged)} weights end within one ({_shown(ragged)}). Name "
            f"a checkpoint in 16 bits."
        )
