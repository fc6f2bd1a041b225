"""Examples → tokens: rendered with or without a chat template, what carries loss marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jinja2.exceptions import TemplateError

from trials.config import DataError
from trials.data.examples import Example
from trials.data.tokens import TokenSplit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LossOn = Literal["completion", "all"]

CHUNK_ROWS = 1000
"""Rows tokenised at once: the tokens of no more rows than these are Python's own integers."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a rendered row."""

    text: str
    supervised: bool
    """Whether its tokens carry loss."""


def render(
    example: Example, tokenizer: PreTrainedTokenizerBase, *, chat: bool, loss_on: LossOn
) -> list[Segment]:
    """Return the row as the model reads it, in stretches with and without loss.

    With `chat`, a prompt and its completion become one user and one assistant turn of the
    tokenizer's chat template. Otherwise they stand one after the other, closed by the
    tokenizer's end of sequence. Every assistant turn of a conversation is supervised.

    Raises:
        DataError: The chat template cannot be split at the assistant's turns.
    """
    if example.text is not None:
        return [Segment(example.text + _end_of_sequence(tokenizer), True)]
    if example.messages is not None or chat:
        messages = [turn.for_template() for turn in example.conversation()]
        segments = _chat_segments(messages, tokenizer, example.place)
    else:
        completion = f"{example.completion}{_end_of_sequence(tokenizer)}"
        segments = [Segment(str(example.prompt), False), Segment(completion, True)]
    if loss_on == "all":
        return [Segment(segment.text, True) for segment in segments]
    return segments


def _end_of_sequence(tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.eos_token or "")


def _chat_segments(
    messages: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, place: str
) -> list[Segment]:
    """Split the rendered conversation before and after each assistant turn."""

    def rendered(n_messages: int, *, prompt: bool) -> str:
        try:
            return str(
                tokenizer.apply_chat_template(
                    messages[:n_messages], tokenize=False, add_generation_prompt=prompt
                )
            )
        except TemplateError as error:  # such as Gemma's: roles must alternate
            raise DataError(
                f"{place}: this tokenizer's chat template rejects the conversation: {error}. Fix "
                f"or remove that row."
            ) from None

    whole = rendered(len(messages), prompt=False)
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    segments: list[Segment] = []
    done = ""
    for turn in turns:
        before = rendered(turn, prompt=True)
        after = whole if turn + 1 == len(messages) else rendered(turn + 1, prompt=False)
        if not (before.startswith(done) and after.startswith(before) and whole.startswith(after)):
            # Some templates rewrite earlier turns (they drop old reasoning, say). The last turn
            # alone is then the one whose context is what the model will see.
            before = rendered(turns[-1], prompt=True)
            if not whole.startswith(before):
                raise DataError(
                    f"{place}: this tokenizer's chat template does not start a conversation with "
                    f"its own prompt, so the supervised part is unknown. Give rows with prompt "
                    f"and completion, and set data.chat to false."
                )
            return [Segment(before, False), *_closed(whole[len(before) :])]
        segments += [Segment(before[len(done) :], False), *_closed(after[len(before) :])]
        done = after
    return segments


def _closed(turn: str) -> list[Segment]:
    """Split off the line break behind an end-of-turn token: nobody samples it."""
    body = turn.rstrip("\n")
    return [Segment(body, True)] + ([Segment(turn[len(body) :], False)] if body != turn else [])


def tokenized(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, *, chat: bool, loss_on: LossOn
) -> TokenSplit:
    """Return all rows, rendered as `render` does, as tokens.

    Each stretch is tokenised on its own, so that the border of the loss is exact. Outside a chat
    template the tokenizer's own beginning of sequence, if any, opens the row.
    """
    chunks = []
    for first in range(0, len(examples), CHUNK_ROWS):
        chunk = examples[first : first + CHUNK_ROWS]
        rows = [render(e, tokenizer, chat=chat, loss_on=loss_on) for e in chunk]
        opened = [not _is_chat(e, chat) for e in chunk]
        chunks.append(_tokenized(rows, opened, tokenizer))
    return TokenSplit.joined(chunks)


def _tokenized(
    rows: Sequence[Sequence[Segment]], opened: Sequence[bool], tokenizer: PreTrainedTokenizerBase
) -> TokenSplit:
    # A text that comes again (a system turn, a prompt with several completions) costs nothing.
    texts = list(dict.fromkeys(segment.text for row in rows for segment in row))
    tokens = tokenizer(
        texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False
    ).input_ids
    tokens_of: dict[str, list[int]] = dict(zip(texts, tokens, strict=True))
    opening = _opening(tokenizer)
    stretches: list[list[int]] = []
    supervised: list[bool] = []
    firsts: list[int] = []  # of each row, among the stretches
    for segments, is_opened in zip(rows, opened, strict=True):
        firsts.append(len(stretches))
        stretches += [opening if is_opened else [], *(tokens_of[s.text] for s in segments)]
        supervised += [False, *(s.supervised for s in segments)]
    lengths = np.fromiter(map(len, stretches), np.int64, len(stretches))
    return TokenSplit.of(
        ids=np.fromiter(chain.from_iterable(stretches), np.int32, lengths.sum()),
        supervised=np.repeat(np.array(supervised), lengths),
        lengths=np.add.reduceat(lengths, firsts),
    )


def _opening(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The beginning of sequence, if the tokenizer puts one before a text by itself."""
    tokens: list[int] = tokenizer("").input_ids[:1]
    return tokens if tokens == [tokenizer.bos_token_id] else []


def _is_chat(example: Example, chat: bool) -> bool:
    """Whether the chat template renders the row: a conversation always, a text never."""
    return example.messages is not None or (chat and example.text is None)
