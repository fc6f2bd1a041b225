"""The base model, looked into before any trial: is it there, is it safe, has it all tokens?"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
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
ADAPTER_CONFIG = "adapter_config.json"
MOST_SHOWN = 5
"""Of the files that are wrong."""


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


def check_folder(model: ModelConfig) -> None:
    """Refuse a folder whose weights are not all there, or that holds an adapter too.

    Raises:
        ConfigError: With every file that is missing or cut.
    """
    folder = Path(local_or_hub(model.name))
    if not folder.is_dir():
        return
    _check_no_adapter(model.name, {file.name for file in folder.iterdir()})
    wrong = [words for file in _files_of(folder) if (words := _wrong_weights(file))]
    if wrong:
        shown = "; ".join(wrong[:MOST_SHOWN])
        more = f"; and {len(wrong) - MOST_SHOWN} more" if len(wrong) > MOST_SHOWN else ""
        raise ConfigError(
            f"base_model: every file of weights must be whole, but in {model.name} {shown}{more}. "
            f"Copy or download them again."
        )


def _check_no_adapter(name: str, files: Collection[str]) -> None:
    if ADAPTER_CONFIG not in files:
        return
    if set(SAFE_WEIGHTS).isdisjoint(files):
        raise ConfigError(
            f"base_model: must be a whole model, but {name} is an adapter ({ADAPTER_CONFIG}). Name "
            f"its base model, or the two merged into one."
        )
    raise ConfigError(
        f"base_model: must be a model alone, but {name} also holds an adapter ({ADAPTER_CONFIG}), "
        f"which transformers would load with it. Move adapter_* elsewhere, or merge the two."
    )


def weight_files(model: ModelConfig) -> list[Path]:
    """Return the files of weights on this machine; none where one of the hub's is not fetched."""
    folder = Path(local_or_hub(model.name))
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        fetched = try_to_load_from_cache(model.name, "config.json", revision=model.revision)
        if not isinstance(fetched, str):
            return []
        folder = Path(fetched).parent
    files = _files_of(folder)
    return files if all(file.exists() for file in files) else []


def _files_of(folder: Path) -> list[Path]:
    single, index = (folder / name for name in SAFE_WEIGHTS)
    if single.exists():
        return [single]
    return [folder / name for name in _shards(index)] if index.exists() else []


def _shards(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise ConfigError(
            f"base_model: {index} must be JSON that names a file for each weight, but is not. Copy "
            f"or download it again."
        ) from None


def _wrong_weights(file: Path) -> str | None:
    """Compare the file's size with what its header says: 8 bytes of its length, then JSON."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length)) if 2 <= length <= size - 8 else None
    except FileNotFoundError:
        return f"{file.name} is missing"
    except PermissionError:  # safetensors writes files that their owner alone may read
        return f"{file.name} may not be read by this user (chmod a+r)"
    except ValueError:
        header = None
    if header is None:
        return f"{file.name} is cut or no safetensors ({size:,} bytes)"
    ends = [about["data_offsets"][1] for key, about in header.items() if key != "__metadata__"]
    wanted = 8 + length + max(ends, default=0)
    return None if size >= wanted else f"{file.name} is cut: {size:,} of {wanted:,} bytes"


def check_weights(model: ModelConfig) -> None:
    """Refuse a model of the hub that has pickles alone: loading would fail once a GPU is held."""
    from huggingface_hub import list_repo_files
    from huggingface_hub.errors import HFValidationError

    if Path(local_or_hub(model.name)).is_dir():
        return  # `check_folder` has looked into it
    try:
        names = list_repo_files(model.name, revision=model.revision)
    except (OSError, HFValidationError):  # not reached, or not allowed: the tokenizer will tell
        return
    _check_no_adapter(model.name, names)
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
