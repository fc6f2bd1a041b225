"""Which held-out prompts are generated for at each evaluation, and what that costs."""

from __future__ import annotations

import hashlib
import math
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from trials.config import DataError
from trials.data.conversation import Example, Message
from trials.data.tokens import EVALUATION_COST, EVALUATION_SHARE
from trials.evaluation.answers import Reader, Written
from trials.rendering.renderer import Renderer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEAST_ROWS = 32
"""Fewer rows than this rank nothing, whatever they cost: one of them is 3 % of an exact match."""

MOST_NEW_TOKENS = 256
"""Of the usual `max_new_tokens`, however long the answers are; the longest thought comes on top."""

GENERATION_COST = 2.0
"""A written token beside one that is trained on. Measured on processors with SmolLM2-135M in NF4,
32 rows of 24 tokens at once: 1.5 and 1.9. Not measured on a GPU, which single tokens use badly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """What is asked where the objective is a metric of written completions."""

    rows: int
    """At most so many eval rows are generated for."""
    max_new_tokens: int | None
    """Of a completion; None: as many as the longest true one has, within reason."""
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
    """Token ids before the last completion that is learnt."""
    completion: list[int]
    """Those of the true one, the one that ends it included."""
    example: Example


def write_prompts(
    ask: Ask,
    examples: Sequence[Example],
    renderer: Renderer,
    *,
    max_length: int,
    allowed_tokens: float,
    seed: int,
    folder: Path,
    whole: Mapping[str, Sequence[Example]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Write generation.json, and the user's metric, into the folder of the prepared data.

    Args:
        examples: The rows of the eval sample.
        whole: All rows of splits: what a final evaluation generates for, in the same way.
        max_length: Of the longest row that a trial sees, in tokens: longer prompts are left out.
        allowed_tokens: What one evaluation may cost in training tokens, generation alone.

    Returns:
        `rows`, `max_new_tokens`, `longer` (true completions that have more), `cost` (in training
        tokens, at most), `read` (what completions are read without, if anything), and `metric`, the
        SHA-256 of the user's file.

    Raises:
        DataError: The rows have no prompts.
    """
    tokenizer = renderer.tokenizer
    found = [row for row in prompted(examples, renderer) if len(row.prompt) < max_length]
    if not found:
        raise DataError(
            f"objective: no eval row has a prompt shorter than max_length {max_length}, so nothing "
            f"can be generated. Raise data.max_length."
        )
    stop_ids = stop_ids_of(found, tokenizer)
    true = true_answers(found, tokenizer, stop_ids, is_chat=renderer.is_chat(examples[0]))
    n_new = ask.max_new_tokens or usual_new_tokens(found, true, tokenizer)
    mean_prompt = sum(len(row.prompt) for row in found) / len(found)
    row_cost = EVALUATION_COST * mean_prompt + GENERATION_COST * n_new
    affordable = max(math.floor(allowed_tokens / row_cost), LEAST_ROWS)
    n_rows = min(len(found), ask.n_rows or min(ask.rows, affordable))
    chosen = sorted(random.Random(seed).sample(range(len(found)), n_rows))
    _save(folder, "", found, true, chosen, stop_ids, n_new)
    for name, all_rows in whole.items():
        rows = [row for row in prompted(all_rows, renderer) if len(row.prompt) < max_length]
        answers = TrueAnswers(_read(true.reader, rows, stop_ids), true.reader)
        _save(folder, name, rows, answers, range(len(rows)), stop_ids, n_new)
    report: dict[str, Any] = {
        "rows": n_rows,
        "max_new_tokens": n_new,
        "longer": sum(len(found[i].completion) > n_new for i in chosen),
        "cost": row_cost * n_rows,
    }
    if true.reading:
        report["read"] = true.reading
    if ask.file is not None:
        shutil.copyfile(ask.file, folder / Path(ask.file).name)
        report["metric"] = _digest(ask.file)
    return report


def _save(
    folder: Path,
    split: str,
    rows: Sequence[Prompted],
    true: TrueAnswers,
    chosen: Sequence[int],
    stop_ids: list[int],
    max_new_tokens: int,
) -> None:
    from trials.evaluation.generate import Prompts  # it imports torch

    Prompts(
        prompts=[rows[i].prompt for i in chosen],
        references=[true.written[i].answer for i in chosen],
        rows=[_as_given(rows[i].example) for i in chosen],
        stop_ids=stop_ids,
        max_new_tokens=max_new_tokens,
        end=true.reader.end,
        is_chat=true.reader.is_chat,
        keep_open=[place for place, i in enumerate(chosen) if true.written[i].is_open],
    ).save(folder, split)


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


def prompted(examples: Sequence[Example], renderer: Renderer) -> list[Prompted]:
    """Part each row before its last completion that is learnt.

    The prompt is what inference gives the model. A row without either is left out.

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
    split, _ = renderer.tokenized(examples, "completion")
    found = []
    for index, example in enumerate(examples):
        row = slice(split.offsets[index], split.offsets[index + 1])
        ids, supervised = split.ids[row], split.supervised[row]
        learnt = np.flatnonzero(supervised)
        if not len(learnt):
            continue
        end = int(learnt[-1]) + 1
        before = np.flatnonzero(~supervised[:end])
        begin = int(before[-1]) + 1 if len(before) else 0
        prompt = renderer.prompt(example) or ids[:begin].tolist()
        if prompt:
            found.append(
                Prompted(prompt=prompt, completion=ids[begin:end].tolist(), example=example)
            )
    return found


def stop_ids_of(rows: Sequence[Prompted], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens at which writing ends: a chat template may end turns with another than the
    model's end of sequence, but not with one that stands inside of a turn (gpt-oss's `<|end|>`)."""
    eos = tokenizer.eos_token_id
    marks = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ends = {row.completion[-1] for row in rows} & marks
    inside = {token for row in rows for token in row.completion[:-1]}
    return [eos, *sorted(ends - inside - {eos})]


@dataclass(frozen=True, slots=True)
class TrueAnswers:
    """Completions as a metric reads them."""

    written: list[Written]
    """Of each row."""
    reader: Reader
    """That reads what is generated in the same way."""

    @property
    def reading(self) -> str:
        """What older versions did not do: their scores of such rows do not compare with ours."""
        without = ["thoughts"] if any(each.thought for each in self.written) else []
        without += [self.reader.end] if self.reader.end else []
        return f"without {' and '.join(without)}" if without else ""


def true_answers(
    rows: Sequence[Prompted],
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: Sequence[int],
    *,
    is_chat: bool,
) -> TrueAnswers:
    """Read the true completions, and find out what ends one."""
    reader = Reader(tokenizer, is_chat)
    written = _read(reader, rows, stop_ids)
    if end := _end(rows, written):
        reader = replace(reader, end=end)
        written = _read(reader, rows, stop_ids)
    return TrueAnswers(written, reader)


def _read(reader: Reader, rows: Sequence[Prompted], stop_ids: Sequence[int]) -> list[Written]:
    found = []
    for row in rows:
        ids = row.completion[:-1] if row.completion[-1] in stop_ids else row.completion
        found.append(reader.read(row.prompt, ids, keeps_open=True))
    return found


def _end(rows: Sequence[Prompted], written: Sequence[Written]) -> str:
    """What stands behind the content in all answers: a template's end of turn that is no token."""
    tails = []
    for row, each in zip(rows, written, strict=True):
        content = _content(row.example).strip()
        _, is_there, tail = each.answer.partition(content) if content else ("", "", "")
        if is_there:
            tails.append(tail.strip())
    shortest = min(tails, key=len, default="")
    ends = (shortest[begin:] for begin in range(len(shortest)))
    return next((end for end in ends if all(tail.endswith(end) for tail in tails)), "")


def _content(example: Example) -> str:
    """Of the last turn that is learnt; empty where there are no turns."""
    if example.text is not None:
        return ""
    turns = [m for m in example.conversation() if m.role == "assistant" and m.learnt]
    return turns[-1].content if turns else ""


def usual_new_tokens(
    rows: Sequence[Prompted], true: TrueAnswers, tokenizer: PreTrainedTokenizerBase
) -> int:
    """As many as the longest true completion has, within reason."""
    thoughts = [written.thought for written in true.written if written.thought]
    longest_thought = max(map(len, tokenizer(thoughts).input_ids)) if thoughts else 0
    longest = max(len(row.completion) for row in rows)
    return min(longest, MOST_NEW_TOKENS + longest_thought)


def _as_given(example: Example) -> dict[str, Any]:
    """The row as its own metric reads it: all that is known of it, each thing once."""
    if example.messages:
        row: dict[str, Any] = {"messages": [_turn(message) for message in example.messages]}
    else:
        row = {"prompt": example.prompt, "completion": example.completion}
    if example.system is not None:
        row["system"] = example.system
    if example.tools is not None:
        row["tools"] = example.tool_list()
    return row


def _turn(message: Message) -> dict[str, Any]:
    turn = message.for_template()
    for name in ("thinking", "reasoning"):  # other names of `reasoning_content`
        turn.pop(name, None)
    return turn if message.learnt else {**turn, "weight": 0}
