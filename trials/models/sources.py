"""Where a base model comes from: a folder, the hub, or built in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from trials.config import ConfigError, ModelConfig
from trials.models.smollm2 import is_builtin, smollm2_dir

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def local_or_hub(name: str) -> str:
    """Return what `from_pretrained` takes: the built-in model's folder, else `name` itself."""
    return str(smollm2_dir()) if is_builtin(name) else name


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """Return the model's tokenizer.

    Raises:
        ConfigError: It has no end of sequence, so no completion could be closed.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    place = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(local_or_hub(config.name), **place)
    if not _keeps_texts(tokenizer) and tokenizer.is_fast:
        # Such as DeepSeek V3's: its file names Llama's class, which tokenises otherwise.
        as_stored = PreTrainedTokenizerFast.from_pretrained(local_or_hub(config.name), **place)
        tokenizer = as_stored if _keeps_texts(as_stored) else tokenizer
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"base_model {config.name}: its tokenizer has no end-of-sequence token, so a model "
            f"could never learn where a completion ends. Choose a model with a complete tokenizer."
        )
    if not tokenizer.chat_template:
        tokenizer.chat_template = _processors_template(config)
    loaded: PreTrainedTokenizerBase = tokenizer
    return loaded


def _processors_template(config: ModelConfig) -> str | None:
    """Return the chat template that a checkpoint for images keeps apart from its tokenizer."""
    from transformers.utils import cached_file

    quiet = ("missing_entries", "connection_errors", "gated_repo")
    for name in ("chat_template.json", "processor_config.json"):
        path = cached_file(
            local_or_hub(config.name),
            name,
            revision=config.revision,
            **{f"_raise_exceptions_for_{kind}": False for kind in quiet},
        )
        about = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
        if template := about.get("chat_template"):
            return str(template)
    return None


def _keeps_texts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a text comes back from its tokens, white space and rare characters included."""
    text = "It is 4.\n  \u00dcber \u00e9\U0001f600 x"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)).strip() == text
