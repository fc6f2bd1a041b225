"""Tokenizers as they are stored, whatever class their files name."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests import tiny
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
