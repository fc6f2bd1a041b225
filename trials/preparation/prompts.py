"""Which held-out prompts are generated for at each evaluation, and what that costs."""

from __future__ import annotations

import hashlib
import math
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trials.config import DataError
from trials.data.examples import Example
from trials.data.rendering import tokenized
from trials.data.tokens import EVALUATION_COST, EVALUATION_SHARE, TokenSplit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEAST_ROWS = 32
"""Fewer rows than this rank nothing, whatever they cost: one of them is 3 % of an exact match."""

MOST_NEW_TOKENS = 256
"""Of the usual `max_new_tokens`, however long the completions are."""

GENERATION_COST = 2.0
"""A written token beside one that is trained on. Measured on processors with SmolLM2-135M in NF4,
32 rows of 24 tokens at once: 1.5 and 1.9. Not measured on a GPU, which single tokens use badly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """What is asked where the objective is a metric of written completions."""

    rows: int
    """At most so many eval rows are generated for."""
    max_new_tokens: int | None
    """Of a completion; None: as many as the longest true one has, at most `MOST_NEW_TOKENS`."""
    n_rows: int | None
    """Rows, where earlier trials have set them."""
    file: str | None
    """The user's metric, an absolute path; None: a built-in one."""

    @property
    def content(self) -> list[Any]:
        """All that decides what is written."""
        metric = None if self.file is None else [Path(self.file).name, _digest(self.file)]
        return [self.rows, self.max_new_tokens, metric]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompted:
    """An eval row as it is generated for."""

    prompt: list[int]
    """Token ids before the last completion."""
    n_completion: int
    """Tokens of the true one, the one that ends it included."""
    end: int
    """Its last token."""
    example: Example


def write_prompts(
    ask: Ask,
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    *,
    chat: bool,
    max_length: int,
    allowed_tokens: float,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """Write generation.json, and the user's metric, into the folder of the prepared data.

    Args:
        examples: The rows of the eval sample.
        max_length: Of the longest row that a trial sees, in tokens: longer prompts are left out.
        allowed_tokens: What one evaluation may cost in training tokens, generation alone.

    Returns:
        `rows`, `max_new_tokens`, `cost` (in training tokens, at most), and `metric`, the SHA-256
        of the user's file.

    Raises:
        DataError: The rows have no prompts.
    """
    from trials.evaluation.generate import Prompts

    found = [
        row for row in prompted(examples, tokenizer, chat=chat) if len(row.prompt) < max_length
    ]
    if not found:
        raise DataError(
            f"objective: no eval row has a prompt shorter than max_length {max_length}, so nothing "
            f"can be generated. Raise data.max_length."
        )
    longest = max(row.n_completion for row in found)
    n_new = ask.max_new_tokens or min(longest, MOST_NEW_TOKENS)
    mean_prompt = sum(len(row.prompt) for row in found) / len(found)
    row_cost = EVALUATION_COST * mean_prompt + GENERATION_COST * n_new
    affordable = max(math.floor(allowed_tokens / row_cost), LEAST_ROWS)
    n_rows = min(len(found), ask.n_rows or min(ask.rows, affordable))
    chosen = [found[i] for i in sorted(random.Random(seed).sample(range(len(found)), n_rows))]
    ends = {row.end for row in chosen} & set(tokenizer.all_special_ids)
    Prompts(
        prompts=[row.prompt for row in chosen],
        references=[_reference(row.example) for row in chosen],
        rows=[_as_given(row.example) for row in chosen],
        # A chat template may end a turn with another token than the model's end of sequence.
        stop_ids=[tokenizer.eos_token_id, *sorted(ends - {tokenizer.eos_token_id})],
        max_new_tokens=n_new,
    ).save(folder)
    report: dict[str, Any] = {"rows": n_rows, "max_new_tokens": n_new, "cost": row_cost * n_rows}
    if ask.file is not None:
        shutil.copyfile(ask.file, folder / Path(ask.file).name)
        report["metric"] = _digest(ask.file)
    return report


def _digest(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def allowed_tokens(*, train_tokens: int, epochs: float, n_evaluations: int, sample: int) -> float:
    """Return what generation may cost at each evaluation, in training tokens.

    All evaluations of the shortest trial shall cost no more than `EVALUATION_SHARE` of its
    training; the eval loss takes its part first.

    Args:
        sample: Tokens of the eval sample.
    """
    return EVALUATION_SHARE * train_tokens * epochs / n_evaluations - EVALUATION_COST * sample


def prompted(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, *, chat: bool
) -> list[Prompted]:
    """Split each row before its last completion, as the model reads it.

    Raises:
        DataError: A row is plain text.
    """
    if any(example.text is not None for example in examples):
        raise DataError(
            "objective: a metric of written completions needs rows with prompts to complete "
            "(prompt and completion, or messages), but the eval rows are plain text. Give such "
            "rows, or choose metric: eval_loss or token_accuracy."
        )
    # Whatever is learnt (`loss_on`), what is written is the completion.
    split: TokenSplit = tokenized(examples, tokenizer, chat=chat, loss_on="completion")
    found = []
    for index, example in enumerate(examples):
        row = slice(split.offsets[index], split.offsets[index + 1])
        ids, supervised = split.ids[row], split.supervised[row]
        end = int(np.flatnonzero(supervised)[-1])
        before = np.flatnonzero(~supervised[:end])
        begin = int(before[-1]) + 1 if len(before) else 0
        if begin:
            found.append(
                Prompted(
                    prompt=ids[:begin].tolist(),
                    n_completion=end + 1 - begin,
                    end=int(ids[end]),
                    example=example,
                )
            )
    return found


def _reference(example: Example) -> str:
    return str(example.messages[-1].content if example.messages else example.completion)


def _as_given(example: Example) -> dict[str, Any]:
    if example.messages:
        return {"messages": [{"role": m.role, "content": m.content} for m in example.messages]}
    return {"prompt": example.prompt, "completion": example.completion}
