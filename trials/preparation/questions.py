"""The held-out prompts whose answers a sweep shows at its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trials.data.conversation import Example
from trials.data.tokens import EVALUATION_COST
from trials.evaluation.answers import Reader
from trials.preparation.prompts import (
    GENERATION_COST,
    Prompted,
    prompted,
    stop_ids_of,
    true_answers,
    usual_new_tokens,
)
from trials.rendering.renderer import Renderer


def write_questions(
    n: int, examples: Sequence[Example], renderer: Renderer, max_length: int, folder: Path
) -> dict[str, Any]:
    """Write answers.json (`trials.evaluation.generate.Prompts`) into the prepared folder.

    The rows lie evenly among those that leave room for an answer, so that a file in some order
    gives some of each part; a plain text is to be continued from its middle.

    Args:
        n: Rows that are wanted.
        examples: The rows of the eval sample.
        max_length: Of the longest row that a trial sees, in tokens: no answer goes beyond it.

    Returns:
        `rows`, `max_new_tokens`, and `cost` in training tokens; nothing where none are asked.
    """
    found = _asked(examples, renderer, max_length) if n else []
    if not found:
        return {}
    tokenizer = renderer.tokenizer
    stop_ids = stop_ids_of(found, tokenizer)
    true = true_answers(found, tokenizer, stop_ids, is_chat=renderer.is_chat(examples[0]))
    n_new = min(usual_new_tokens(found, true, tokenizer), max_length // 2)
    fitting = [i for i, row in enumerate(found) if len(row.prompt) + n_new <= max_length]
    if not fitting:
        fitting = sorted(range(len(found)), key=lambda i: len(found[i].prompt))[:n]
        n_new = max_length - max(len(found[i].prompt) for i in fitting)
    n = min(n, len(fitting))
    chosen = [fitting[place * len(fitting) // n] for place in range(n)]
    _save(folder, [found[i] for i in chosen], true.reader, stop_ids, n_new)
    n_tokens = sum(len(found[i].prompt) for i in chosen)
    cost = EVALUATION_COST * n_tokens + GENERATION_COST * n_new * n
    return {"rows": n, "max_new_tokens": n_new, "cost": cost}


def _asked(examples: Sequence[Example], renderer: Renderer, max_length: int) -> list[Prompted]:
    """Each row in two, as far as its prompt is within reach of a trial."""
    texts = [example for example in examples if example.text is not None]
    found = prompted([example for example in examples if example.text is None], renderer)
    split, _ = renderer.tokenized(texts)
    for row, text in enumerate(texts):
        ids = split.ids[split.offsets[row] : split.offsets[row + 1]][:max_length].tolist()
        half = len(ids) // 2
        found.append(Prompted(prompt=ids[:half], completion=ids[half:], example=text))
    return [row for row in found if 0 < len(row.prompt) < max_length]


def _save(
    folder: Path, rows: Sequence[Prompted], reader: Reader, stop_ids: list[int], n_new: int
) -> None:
    from trials.evaluation.generate import Prompts  # it imports torch

    def true(row: Prompted) -> str:
        ids = row.completion[:-1] if row.completion[-1] in stop_ids else row.completion
        return reader.shown(row.prompt, ids[:n_new], is_cut=len(ids) > n_new)

    Prompts(
        prompts=[row.prompt for row in rows],
        references=[true(row) for row in rows],
        rows=[{"prompt": _in_words(row, reader)} for row in rows],
        stop_ids=stop_ids,
        max_new_tokens=n_new,
        end=reader.end,
        is_chat=reader.is_chat,
    ).save(folder, "answers")


def _in_words(row: Prompted, reader: Reader) -> str:
    """The prompt as a person reads it: without the marks of a template."""
    if row.example.text is not None:
        return reader.shown([], row.prompt, is_cut=False)
    turns = row.example.conversation()
    last = max(n for n, turn in enumerate(turns) if turn.role == "assistant" and turn.learnt)
    if last == 1:
        return turns[0].content
    return "\n".join(f"{turn.role}: {turn.content or turn.tool_calls}" for turn in turns[:last])
