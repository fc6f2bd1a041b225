"""Completions that a model writes itself, of prompts that were held out."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from trials.config import ModelConfig
from trials.data.batches import micro_batches
from trials.distributed.group import Group
from trials.evaluation.answers import Reader
from trials.models.frozen_base import FrozenBase
from trials.models.sources import load_tokenizer
from trials.whole_file import write_whole

FILE_NAME = "generation.json"
"""Of the eval sample; of all rows of a split `generation.eval.json`."""

ROWS_PER_EVAL_ROW = 4
"""Rows that are written at once, beside those of an evaluation: a step makes the logits of one
token of each and keeps no activations, and its time hardly grows with its rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompts:
    """What is generated for at each evaluation: equal in all trials of a study."""

    prompts: list[list[int]]
    """Token ids, as the model reads them before the completion."""
    references: list[str]
    """The answers of the true completions (`trials.evaluation.answers`)."""
    rows: list[dict[str, Any]]
    """The rows themselves, whole: `prompt` and `completion`, or `messages`. Of answers that are
    shown: the `prompt` alone, in words."""
    stop_ids: list[int]
    """Tokens that end a completion."""
    max_new_tokens: int
    # Older sweeps have none of these.
    end: str = ""
    """A text that ends a completion, where no token does."""
    is_chat: bool = False
    keep_open: list[int] = field(default_factory=list)
    """Rows whose true answer begins with a thought's mark that nothing closes."""

    def save(self, folder: Path, split: str = "") -> None:
        write_whole(_file(folder, split), json.dumps(asdict(self), ensure_ascii=False))

    @classmethod
    def load(cls, folder: Path, split: str = "") -> Prompts:
        return cls(**json.loads(_file(folder, split).read_text(encoding="utf-8")))

    def reader(self, config: ModelConfig) -> Reader:
        """Return what reads the answers as the true ones were read."""
        return Reader(_tokenizer(config), self.is_chat, self.end)


def _file(folder: Path, split: str) -> Path:
    return folder / (f"generation.{split}.json" if split else FILE_NAME)


def predictions(
    base: FrozenBase,
    model: Any,
    config: ModelConfig,
    asked: Prompts,
    eval_batch_size: int,
    group: Group,
    after_batch: Callable[[], None] = lambda: None,
) -> list[str]:
    """Return what the model answers to each prompt: greedily, without thoughts and marks.

    Args: as `generated`.
    """
    reader = asked.reader(config)
    tokens = generated(base, model, asked, eval_batch_size, group, after_batch)
    return [
        reader.read(prompt, ids, keeps_open=index in asked.keep_open).answer
        for index, (prompt, ids) in enumerate(zip(asked.prompts, tokens, strict=True))
    ]


@torch.no_grad()
def generated(
    base: FrozenBase,
    model: Any,
    asked: Prompts,
    eval_batch_size: int,
    group: Group,
    after_batch: Callable[[], None] = lambda: None,
    is_over: Callable[[], bool] = lambda: False,
) -> list[list[int]]:
    """Return the tokens that the model continues each prompt with, greedily.

    Args:
        model: The base with the adapter, which is put in evaluation mode meanwhile.
        eval_batch_size: Rows per forward pass of an evaluation.
        group: Each of its processes takes its share of the prompts; each gets all.
        after_batch: Called after each; what it raises ends the writing.
        is_over: Asked after each token: whether to end there.
    """
    was_training = model.training
    model.eval()
    try:
        lengths = torch.tensor([len(prompt) for prompt in asked.prompts])
        order = lengths.argsort(descending=True, stable=True).numpy()
        mine: dict[int, list[int]] = {}
        size = ROWS_PER_EVAL_ROW * eval_batch_size if eval_batch_size > 1 else 1
        for part in micro_batches(order[group.rank :: group.size], size):
            written = base.generate(
                [asked.prompts[index] for index in part],
                stop_ids=asked.stop_ids,
                max_new_tokens=asked.max_new_tokens,
                is_over=is_over,
            )
            mine |= dict(zip(map(int, part), written, strict=True))
            after_batch()
    finally:
        model.train(was_training)
    tokens = {index: ids for share in group.gather(mine) for index, ids in share.items()}
    return [tokens[index] for index in range(len(asked.prompts))]


_tokenizer = functools.lru_cache(maxsize=1)(load_tokenizer)
