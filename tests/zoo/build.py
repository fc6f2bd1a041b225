"""The folder of a tiny model with random weights, as people download one; and rows for it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.tiny import PLACES, SKIES, WINDS, WORDS, make_tokenizer
from tests.zoo.architectures import tiny_config
from trials.whole_file import new_folder


def built(name: str, folder: Path) -> Path:
    """Make the model and its tokenizer in `folder`, unless they are there."""
    import torch

    if folder.exists():
        return folder
    config = tiny_config(name)
    torch.manual_seed(0)
    model = _auto_class(config).from_config(config, dtype=torch.bfloat16)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
        make_tokenizer().save_pretrained(unfinished)
    return folder


def _auto_class(config: Any) -> Any:
    """The class that its makers publish it with: the one that also sees, where there are two."""
    from transformers import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )

    sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return AutoModelForImageTextToText if sees else AutoModelForCausalLM


def write_rows(path: Path, n: int, seed: int) -> str:
    """Write `n` rows of very different lengths, 8 to 40 tokens, as JSON lines."""
    chance = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(n):
            facts = [chance.choice(words) for words in (PLACES, SKIES, WINDS)]
            free = chance.choices(WORDS, k=chance.randint(1, 33))
            row = {"prompt": f"{' '.join(facts)} :", "completion": f" {' '.join(facts + free)}"}
            file.write(json.dumps(row) + "\n")
    return str(path)
