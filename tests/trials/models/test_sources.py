"""Tokenizers as they are stored, whatever class their files name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests import tiny, wrappers
from trials.models.sources import load_tokenizer

TEXT = "It is 4.\n  Über 😀"


def test_a_byte_level_tokenizer_that_names_llamas_class_keeps_its_texts(
    tiny_base: Path, tmp_path: Path
) -> None:
    """As DeepSeek V3's files do: Llama's class would drop every space."""
    stored = Tokenizer(models.BPE())
    stored.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    stored.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>"]
    stored.train_from_iterator(
        ["It is so."],
        trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=special),
    )
    stored.save(str(tmp_path / "tokenizer.json"))
    names = {"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    (tmp_path / "config.json").write_text((tiny_base / "config.json").read_text())
    tokenizer = load_tokenizer(tiny.model_config(tmp_path))
    ids = tokenizer(TEXT, add_special_tokens=False).input_ids
    assert ids == stored.encode(TEXT, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == TEXT
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")


@pytest.mark.parametrize("name", ["chat_template.json", "processor_config.json"])
def test_a_chat_template_of_the_processor_is_the_tokenizers(
    tiny_base: Path, tmp_path: Path, name: str
) -> None:
    """As checkpoints for images keep it, beside a tokenizer without one."""
    folder = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    assert load_tokenizer(tiny.model_config(folder)).chat_template is None
    (folder / name).write_text(json.dumps({"chat_template": wrappers.TEMPLATE}))
    assert load_tokenizer(tiny.model_config(folder)).chat_template == wrappers.TEMPLATE
