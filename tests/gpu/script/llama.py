"""Random Llamas of given widths and rows to train them on, made here by a seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.gpu.script.bench import Bench

MAX_LENGTH = 512


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a Llama."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    layers: int
    is_tied: bool


WIDE = "llama-8b-width"
DEEP = "smollm2-width"
SHAPES = {
    WIDE: Shape(4096, 14336, 32, 8, 128256, 2, is_tied=False),
    DEEP: Shape(576, 1536, 9, 3, 49152, 30, is_tied=True),
}
SMALL_SHAPES = {
    WIDE: Shape(128, 256, 4, 2, 512, 2, is_tied=False),
    DEEP: Shape(96, 192, 3, 1, 512, 3, is_tied=True),
}


def make_all(bench: Bench) -> None:
    """Make each model, once for all parts."""
    for name, shape in (SMALL_SHAPES if bench.small else SHAPES).items():
        what = f"{name}, {'a tiny one instead, ' if bench.small else ''}parameters"
        bench.found.figure(what, make(shape, folder_of(bench, name)))


def folder_of(bench: Bench, name: str) -> Path:
    return bench.scratch / "models" / name


def make(shape: Shape, folder: Path) -> int:
    """Save a random model in bfloat16, on the device where there is one; return its parameters."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from tests.tiny import make_tokenizer
    from trials.whole_file import new_folder

    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=shape.is_tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
    return int(model.num_parameters())


def write_rows(bench: Bench, *, n_train: int = 48, n_eval: int = 16, longest: int = 2**31) -> Path:
    """Write rows that a model can learn: each counts up, from a start and by a step of its own.

    Their lengths are between a sixteenth of the longest and all of it.

    Args:
        longest: Tokens that a row may have, beside what `longest_row` says.
    """
    from trials.data.tokens import TokenSplit

    longest = min(longest, longest_row(bench))
    chance = np.random.default_rng(0)
    for name, n in {"train": n_train, "sample": n_eval}.items():
        lengths = chance.integers(longest // 16, longest + 1, size=n)
        starts, steps = chance.integers(0, 61, size=n), chance.integers(1, 4, size=n)
        ids = [
            (start + step * np.arange(length)) % 61 + 3
            for start, step, length in zip(starts, steps, lengths, strict=True)
        ]
        TokenSplit.of(
            ids=np.concatenate(ids).astype(np.int32),
            supervised=np.ones(lengths.sum(), np.bool_),
            lengths=lengths,
        ).save(bench.work / name)
    return bench.work


def longest_row(bench: Bench) -> int:
    """Tokens."""
    return 64 if bench.small else MAX_LENGTH
