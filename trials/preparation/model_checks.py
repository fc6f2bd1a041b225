"""The base model, looked into before any trial: is it there, is it safe, has it all tokens?"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trials.config import ConfigError, ModelConfig
from trials.data.tokens import TokenSplit
from trials.models.sources import local_or_hub

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MODEL_TEXT_SUFFIXES = {".json", ".jinja", ".txt", ".model", ".tiktoken", ".py"}
"""Files of a model's folder that hold its configuration, tokenizer and chat template."""
SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def model_digest(model: ModelConfig) -> str:
    """Return what tells the model's configuration and tokenizer, without reading its weights.

    Of the hub this is the commit that was fetched last, or nothing; the network is not asked.
    """
    folder = Path(local_or_hub(model.name))
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        fetched = try_to_load_from_cache(model.name, "config.json", revision=model.revision)
        # .../snapshots/<commit>/config.json
        return Path(fetched).parent.name if isinstance(fetched, str) else ""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in MODEL_TEXT_SUFFIXES:
            digest.update(f"{file.name} {file.stat().st_size}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def check_weights(model: ModelConfig) -> None:
    """Refuse a model of the hub that has pickles alone: loading would fail once a GPU is held."""
    from huggingface_hub import list_repo_files
    from huggingface_hub.errors import HFValidationError

    if Path(local_or_hub(model.name)).is_dir():
        return  # `sweep.space.loading` has looked into it
    try:
        names = list_repo_files(model.name, revision=model.revision)
    except (OSError, HFValidationError):  # not reached, or not allowed: the tokenizer will tell
        return
    if any(name in SAFE_WEIGHTS for name in names):
        return
    pickles = next((f"; {name} is a pickle" for name in names if name.endswith(".bin")), "")
    raise ConfigError(
        f"base_model: {model.name} must have safetensors weights, but has none{pickles}. Pickles "
        f"can run code, so they are never read: choose a model or a revision with "
        f"{SAFE_WEIGHTS[0]}."
    )


def reachable(model: ModelConfig, load: Any) -> Any:
    """Run `load`; say in words that the model cannot be had."""
    try:
        return load()
    except ConfigError:
        raise
    # Exception: what a model's own files hold can break the library anywhere.
    except Exception as error:
        if "trust_remote_code" in str(error) and not model.trust_remote_code:
            raise ConfigError(
                f"base_model: {model.name} has its own Python code, which runs only with "
                f"`trust_remote_code: true`. Read that code first, or choose another model."
            ) from None
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        if not isinstance(error, OSError | ValueError | ImportError):
            first_line = f"{type(error).__name__}, {first_line}"
        is_offline = os.environ.get("HF_HUB_OFFLINE") == "1" and not Path(model.name).is_dir()
        offline = " HF_HUB_OFFLINE is set: unset it to reach the hub." if is_offline else ""
        raise ConfigError(
            f"base_model: {model.name} cannot be read: {first_line.rstrip('.: ')}.{offline} Give "
            f"a hub id this machine can reach, a local folder with config.json, tokenizer and "
            f"safetensors, or the built-in smollm2-135m."
        ) from None


def check_token_ids(
    model: ModelConfig, tokenizer: PreTrainedTokenizerBase, splits: Mapping[str, TokenSplit]
) -> list[str]:
    """Refuse token ids beyond the model's embeddings: a GPU dies of them, without words.

    Returns:
        A note on such tokens, where no row has one: Gemma 3 has a token for images, without one.

    Raises:
        ConfigError: Rows have them, or the end of sequence is one.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(
        local_or_hub(model.name), revision=model.revision, trust_remote_code=model.trust_remote_code
    )
    n_embedded = getattr(config.get_text_config(), "vocab_size", None)
    if n_embedded is None:
        return []
    problems = _unknown_in_rows(tokenizer, splits, n_embedded)
    if tokenizer.eos_token_id >= n_embedded:
        problems.append(f"the end of sequence is {_named(tokenizer, [tokenizer.eos_token_id])}")
    if problems:
        raise ConfigError(
            f"base_model: {model.name} must have an embedding for every token, but has "
            f"{n_embedded:,}, of ids 0 to {n_embedded - 1}: {'; '.join(problems)}. Take the "
            f"tokenizer that belongs to the model, or save the model with "
            f"`model.resize_token_embeddings(len(tokenizer))`, or leave these tokens out."
        )
    unused = [i for i in tokenizer.get_added_vocab().values() if i >= n_embedded]
    if not unused:
        return []
    return [
        f"base_model: its tokenizer has {_named(tokenizer, sorted(unused))} beyond the model's "
        f"{n_embedded:,} embeddings. No row has one; a prompt that has one would fail."
    ]


_NAMED = 3
"""Tokens that a message names."""


def _named(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    named = ", ".join(f"{tokenizer.convert_ids_to_tokens(i)} (id {i})" for i in ids[:_NAMED])
    more = f" and {len(ids) - _NAMED:,} more" if len(ids) > _NAMED else ""
    return named + more


def _unknown_in_rows(
    tokenizer: PreTrainedTokenizerBase, splits: Mapping[str, TokenSplit], n_embedded: int
) -> list[str]:
    problems = []
    for name, split in splits.items():
        places = np.flatnonzero(split.ids >= n_embedded)
        if len(places):
            n_rows = len(np.unique(np.searchsorted(split.offsets, places, side="right")))
            tokens = _named(tokenizer, np.unique(split.ids[places]).tolist())
            problems.append(
                f"data.{name} has {tokens} in {n_rows:,} of {len(split.lengths):,} rows"
            )
    return problems
