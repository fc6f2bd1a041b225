"""Examples → tokens: rendered with or without a chat template, what is learnt marked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trials.data.conversation import Example
from trials.data.tokens import TokenSplit
from trials.rendering.chat import ChatTemplate, RowRefused
from trials.rendering.encoding import Encoder
from trials.rendering.left_out import pieces
from trials.rendering.spans import Rendered, Span, rendered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LossOn = Literal["completion", "all"]

CHUNK_ROWS = 1000
"""Rows tokenised at once: the tokens of no more rows than these are Python's own integers."""

SYSTEM_REFUSED = "without its system turn the row is rendered"
_PLACES = 5
"""Rows that are named of each kind of problem."""


@dataclass(slots=True)
class RowCounts:
    """What was seen while rows were rendered and tokenised: JSON, kept beside the tokens."""

    turns: int = 0
    """Learnt, of the assistant."""
    rewritten: int = 0
    """Of these: the template renders what is before them otherwise when they are generated."""
    closed: int = 0
    """Rows whose end the template does not write."""
    split: int = 0
    """Rows with a token across a border of what is learnt, tokenised in two there."""
    parts: dict[str, list[int]] = field(default_factory=dict)
    """Kind → [parts of rows, those that the template leaves out, their characters]."""
    refused: dict[str, list[Any]] = field(default_factory=dict)
    """Reason → [rows, the first places]."""
    refused_rows: list[int] = field(default_factory=list)
    """Their indices."""

    def refuse(self, reason: str, index: int, place: str) -> None:
        rows = self.refused.setdefault(re.sub(r"\bturn \d+", "a turn", reason), [0])
        rows[0] += 1
        rows += [place] if rows[0] <= _PLACES else []
        self.refused_rows.append(index)

    def count(self, example: Example, found: Rendered) -> None:
        self.turns += len(found.spans)
        self.rewritten += found.rewritten
        self.closed += found.closed
        for kind, size, is_there in pieces(example, found.text):
            counts = self.parts.setdefault(kind, [0, 0, 0])
            counts[0] += 1
            if not is_there:
                counts[1] += 1
                counts[2] += size

    def plus(self, other: RowCounts) -> RowCounts:
        """Return the counts of two splits together; indices of rows are of no use then."""
        parts = {
            kind: [
                a + b
                for a, b in zip(
                    self.parts.get(kind, [0, 0, 0]), other.parts.get(kind, [0, 0, 0]), strict=True
                )
            ]
            for kind in {**self.parts, **other.parts}
        }
        refused = {**self.refused}
        for reason, (n, *places) in other.refused.items():
            before, *first = refused.get(reason, [0])
            refused[reason] = [before + n, *(first + places)[:_PLACES]]
        return RowCounts(
            self.turns + other.turns,
            self.rewritten + other.rewritten,
            self.closed + other.closed,
            self.split + other.split,
            parts,
            refused,
        )


class Renderer:
    """Turns examples into tokens, the same for all trials of a study.

    With `chat`, a prompt and its completion become a user and an assistant turn of the tokenizer's
    chat template; otherwise they stand one after the other, closed by the tokenizer's end of
    sequence. A conversation is always rendered by the template. Of each turn of the assistant that
    is learnt, the tokens carry loss from where it departs from its prompt to the end of the turn.

    Args:
        chat: Whether prompts and completions become turns.
        arguments: What the chat template is given beside the conversation.
        day: The date that the template may write, such as `2026-11-29`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        chat: bool,
        loss_on: LossOn,
        arguments: Mapping[str, Any] | None = None,
        day: str | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.template = ChatTemplate(tokenizer, arguments, day)
        self._chat, self._loss_on = chat, loss_on
        self._encoder = Encoder(tokenizer)
        self._bos, self._eos = str(tokenizer.bos_token or ""), str(tokenizer.eos_token or "")

    def render(self, example: Example) -> Rendered:
        """Return the row as the model reads it, and the turns that are learnt.

        Raises:
            RowRefused: The chat template rejects the conversation, or its turns cannot be told.
        """
        return self._rendered(self._with_one_end(example))

    def _rendered(self, example: Example) -> Rendered:
        if self.is_chat(example):
            return rendered(example, self.template)
        if example.text is not None:
            text = self._closed(example.text)
            return Rendered(text, [Span(0, len(text))])
        prompt, text = (
            str(example.prompt),
            f"{example.prompt}{self._closed(str(example.completion))}",
        )
        return Rendered(text, [Span(len(prompt), len(text))])

    def _with_one_end(self, example: Example) -> Example:
        """Take off the end that an answer brings along: the template writes it."""
        if not self.is_chat(example):
            return example
        marks = self.template.marks
        ends = tuple(end for end in (self._eos, marks.end if marks.ends_turns else "") if end)
        turns = example.conversation()
        if not any(t.role == "assistant" and t.content.rstrip().endswith(ends) for t in turns):
            return example
        messages = tuple(
            replace(t, content=_without(t.content.rstrip(), ends)) if t.role == "assistant" else t
            for t in turns
        )
        return replace(example, messages=messages, system=None)

    def _why(self, example: Example, error: RowRefused) -> str:
        """Why a row is refused; where it is for its system turn, say so."""
        turns = example.conversation()
        rest = tuple(turn for turn in turns if turn.role not in ("system", "developer"))
        if len(rest) < len(turns):
            try:
                rendered(replace(example, messages=rest, system=None), self.template)
            except RowRefused:
                return str(error)
            return f"{error}; {SYSTEM_REFUSED}"
        return str(error)

    def is_chat(self, example: Example) -> bool:
        """Whether the chat template renders the row: a conversation always, a text never."""
        return example.messages is not None or (self._chat and example.text is None)

    def _closed(self, text: str) -> str:
        """End a text as the model ends it; one that comes with its end gets no second."""
        return text if self._eos and text.rstrip().endswith(self._eos) else text + self._eos

    def prompt(self, example: Example) -> list[int] | None:
        """Return the tokens that the last learnt turn is generated from, as inference has them.

        None: the template renders no such prompt.
        """
        if not self.is_chat(example):
            opening = [] if self._opens(str(example.prompt)) else self._encoder.opening
            return opening + self._encoder.ids(str(example.prompt))
        messages = self._with_one_end(example).conversation()
        last = max(n for n, m in enumerate(messages) if m.role == "assistant" and m.learnt)
        turns = [self.template.turn(message) for message in messages[:last]]
        try:
            prompt = self.template.render(turns, example.tool_list(), prompt=True)
        except RowRefused:
            return None
        return self._encoder.ids(prompt)

    def _opens(self, text: str) -> bool:
        """Whether a text comes with its beginning of sequence, so that it gets no second."""
        return bool(self._bos) and text.startswith(self._bos)

    def tokenized(
        self, examples: Sequence[Example], loss_on: LossOn | None = None
    ) -> tuple[TokenSplit, RowCounts]:
        """Return all rows as tokens, but for those that are refused, and what was seen of them.

        Args:
            loss_on: None: as the study has it.
        """
        counts = RowCounts()
        is_all = (loss_on or self._loss_on) == "all"
        chunks = [
            self._chunk(
                range(first, min(first + CHUNK_ROWS, len(examples))), examples, counts, is_all
            )
            for first in range(0, max(len(examples), 1), CHUNK_ROWS)  # no rows: an empty chunk
        ]
        return TokenSplit.joined(chunks), counts

    def _chunk(
        self, rows: range, examples: Sequence[Example], counts: RowCounts, is_all: bool
    ) -> TokenSplit:
        found: list[Rendered] = []
        opened: list[bool] = []
        for index in rows:
            example = self._with_one_end(examples[index])
            try:
                one = self._rendered(example)
            except RowRefused as error:
                counts.refuse(self._why(example, error), index, example.place)
                continue
            is_chat = self.is_chat(example)
            if is_chat:
                counts.count(example, one)
            found.append(one)
            opened.append(not is_chat and not self._opens(one.text))
        ids, supervised = [], []
        for is_opened, row in zip(opened, self._encoder.rows(found), strict=True):
            opening = self._encoder.opening if is_opened else []
            mask = np.zeros(len(opening) + len(row.ids), np.bool_)
            if is_all:
                mask[len(opening) :] = True
            for start, stop in row.spans:
                mask[len(opening) + start : len(opening) + stop] = True
            ids.append(opening + row.ids)
            supervised.append(mask)
            counts.split += row.is_split
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        return TokenSplit.of(
            ids=np.fromiter(chain.from_iterable(ids), np.int32, lengths.sum()),
            supervised=np.concatenate(supervised) if supervised else np.zeros(0, np.bool_),
            lengths=lengths,
        )


def _without(text: str, ends: Sequence[str]) -> str:
    for end in ends:
        text = text.removesuffix(end).rstrip()
    return text
