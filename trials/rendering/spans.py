"""Where the assistant's turns stand in a rendered conversation.

The conversation is rendered once as the model sees it. A turn that begins where its prompt ends,
with its own text and the template's end of turn, is told by that. All others are told by a second
rendering, with a character that no template knows at both ends of each text.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any

from trials.data.conversation import Example, Message
from trials.rendering.chat import ChatTemplate, RowRefused, Turn

_FIRST_MARKS = (0xF0000, 0x100000)
"""Of characters for private use: Unicode gives them no meaning, and texts hardly ever hold them."""
_PER_TURN = 32
"""Marks of a turn: its text's begin and end, its reasoning's end, the name of each call."""
_MOST_TURNS = 0xFFFD // _PER_TURN
_BEGINS = re.compile(r"^(?=.*\S)|(?<=\s)\S|[<\[]", re.DOTALL)
"""Where a word or a mark may begin in what a template writes before answers."""
_OPENS = re.compile(r"<\|\w+>$")
"""What opens the answer of a tool where Gemma writes it within a turn: `<x|>` would close."""


@dataclass(frozen=True, slots=True)
class Span:
    """A turn that is learnt, in characters of the rendered text."""

    start: int
    """Where it departs from the prompt."""
    stop: int
    """Behind the end of the turn."""
    departs_from: str | None = None
    """The text of the prompt, where the turn departs within it; None: it follows the whole of it,
    so that no token may lie across."""


@dataclass(slots=True)
class Rendered:
    """A conversation as the model sees it."""

    text: str
    spans: list[Span] = field(default_factory=list)
    rewritten: int = 0
    """Turns before which the template renders the conversation otherwise when it is generated."""
    closed: bool = False
    """Whether an end of turn was put behind the last turn, which the template leaves open."""


def rendered(example: Example, template: ChatTemplate) -> Rendered:
    """Render a conversation and find the turns that are learnt.

    Raises:
        RowRefused: The template rejects it, or a turn cannot be told.
    """
    return _Row(example.conversation(), example.tool_list(), template).rendered()


class _Row:
    def __init__(
        self, messages: Sequence[Message], tools: list[Any] | None, template: ChatTemplate
    ) -> None:
        self._messages, self._tools, self._template = messages, tools, template
        self._turns = [template.turn(message) for message in messages]
        self._whole = template.render(self._turns, tools)
        self._prompts: dict[int, str | None] = {}

    def rendered(self) -> Rendered:
        found = Rendered(self._whole)
        learnt = [n for n, m in enumerate(self._messages) if m.role == "assistant" and m.learnt]
        for index in learnt:
            span = self._plain(index) or self._marked_span(index, found)
            if found.spans and span.start < found.spans[-1].stop:
                raise RowRefused(f"turn {index + 1} begins within another one in the rendering")
            found.spans.append(span)
        if learnt and learnt[-1] == len(self._messages) - 1:
            self._close(found)
        return found

    def _prompt(self, index: int) -> str | None:
        """What the model is given before a turn; None: the template renders no such prompt."""
        if index not in self._prompts:
            try:
                prompt = self._template.render(self._turns[:index], self._tools, prompt=True)
            except RowRefused:
                prompt = None
            self._prompts[index] = prompt
        return self._prompts[index]

    def _plain(self, index: int) -> Span | None:
        """The span of a turn with nothing but text, if all stands as a plain template has it."""
        message, marks = self._messages[index], self._template.marks
        if message.tool_calls or not message.content or not marks.ends_turns:
            return None
        prompt = self._prompt(index)
        if not prompt or not self._whole.startswith(prompt):
            return None
        for before in marks.before:
            for text in dict.fromkeys((message.content, message.content.strip())):
                if text and self._whole.startswith(before + text, len(prompt)):
                    stop = len(prompt) + len(before) + len(text)
                    end = self._whole.find(marks.end, stop)
                    if end >= 0 and not self._whole[stop:end].strip():
                        return Span(len(prompt), end + len(marks.end))
        return None

    def _marked_span(self, index: int, found: Rendered) -> Span:
        own = self._marked.of(index)
        others = [place for place, _, turn in self._marked.places if turn != index]
        if own and any(own[0][0] < place < own[-1][0] for place in others):
            raise RowRefused(f"the template renders another turn within turn {index + 1}")
        start, departs_from = self._start(index, found)
        header = self._template.marks.header.removeprefix(self._template.marks.end).lstrip()
        opening = re.compile(rf"\s*{re.escape(header)}").match(self._whole, start)
        if header and opening:  # after a tool's answer, in Gemma's
            start, departs_from = opening.end(), None
        stop = self._stop(index, max(start, own[-1][0] if own else 0))
        if stop <= start:
            raise RowRefused(f"turn {index + 1} is empty in the rendering")
        return Span(start, stop, departs_from)

    def _start(self, index: int, found: Rendered) -> tuple[int, str | None]:
        prompt = self._prompt(index)
        if prompt and self._whole.startswith(prompt):
            return len(prompt), None
        own = self._marked.of(index)
        first = own[0][0] if own else len(self._whole)
        places = self._marked.places
        earlier = [(place, mark) for place, mark, turn in places if turn < index and place < first]
        if prompt is not None and earlier:
            place, mark = earlier[-1]
            opening = self._marked.opening(index, mark)
            if opening is not None:
                n = len(self._template.shared(opening, self._whole[place:]))
                found.rewritten += not self._whole.startswith(prompt[: len(prompt) - len(opening)])
                is_all = n == len(opening)
                return place + n, None if is_all else self._whole[:place] + opening
        return self._after_header(first, earlier[-1][0] if earlier else 0, index), None

    def _after_header(self, first: int, least: int, index: int) -> int:
        """Where the header ends that the template writes before answers: the last before `first`.

        Of what the probes have there, the longest end that is found, by whole words and marks: the
        rest ends another turn.
        """
        header = self._template.marks.header
        for begin in _BEGINS.finditer(header):
            part = header[begin.start() :]
            place = self._whole.rfind(part, least, first)
            if place >= 0:
                return place + len(part)
        raise RowRefused(f"turn {index + 1}: the template does not show where it begins")

    def _stop(self, index: int, last: int) -> int:
        """Where a turn ends whose last text ends at `last`."""
        marks, places = self._template.marks, self._marked.places
        limit = min((p for p, _, n in places if n > index and p >= last), default=len(self._whole))
        end = self._whole.find(marks.end, last, limit) if marks.ends_turns else -1
        if end >= 0:
            return end + len(marks.end)
        behind = self._whole[last:limit]
        if index == len(self._turns) - 1:
            written = _OPENS.sub("", behind.rstrip())
            return last + len(written or self._white_space(index, behind))
        alone = self._marked.behind(index)
        if alone is None:
            raise RowRefused(f"turn {index + 1}: the template does not show where it ends")
        own = len(_OPENS.sub("", self._template.shared(alone, behind).rstrip()))
        if marks.ends_turns:  # such as a call, which ends otherwise
            return last + own
        mark = self._template.first_mark(behind[own:])
        return last + (own + mark if mark else len(behind.rstrip()))

    def _white_space(self, index: int, behind: str) -> str:
        """What a text itself ends with, where that is what stands behind it."""
        content = self._messages[index].content
        white = content[len(content.rstrip()) :]
        return white if behind.startswith(white) else ""

    def _close(self, found: Rendered) -> None:
        """End the last turn, where the template leaves it open: else nothing teaches its end."""
        last, marks = found.spans[-1], self._template.marks
        turn, eos = found.text[last.start : last.stop], self._template.end_of_sequence
        if turn.endswith(eos) or (
            marks.ends_turns and (turn.endswith(marks.end) or self._ends_otherwise(turn))
        ):
            return
        end = marks.end if marks.ends_turns else self._next_mark(found.text)
        found.text = found.text[: last.stop] + end
        found.spans[-1] = Span(last.start, last.stop + len(end), last.departs_from)
        found.closed = True

    def _ends_otherwise(self, turn: str) -> bool:
        """Whether the template writes an end behind the text that earlier turns do not have."""
        content = self._messages[-1].content.strip()
        behind = turn.rpartition(content)[2] if content else turn
        return self._template.ends_with_mark(behind.rstrip())

    def _next_mark(self, text: str) -> str:
        """The mark of the role that follows the last turn, if it is one token, else the end."""
        end = self._template.marks.end
        if not self._messages[-1].tool_calls and self._template.is_special(end):
            return end
        following = {"role": "tool", "content": "qxq"}
        try:
            longer = self._template.render([*self._turns, following], self._tools)
        except RowRefused:
            longer = ""
        behind = longer[len(text) :] if longer.startswith(text) else ""
        first = self._template.first_mark(behind.partition("qxq")[0])
        return behind[:first].strip() if first else self._template.end_of_sequence

    @functools.cached_property
    def _marked(self) -> _Marked:
        first = _first_mark(self._turns)
        for parts in ("SERN", "EN", ""):
            try:
                marked = _Marked(self._turns, self._tools, self._template, parts, first)
            except RowRefused:
                continue
            if marked.text == self._whole:
                return marked
        raise RowRefused("the template renders the conversation otherwise where it is marked")


class _Marked:
    """The conversation rendered with marks at the ends of its texts."""

    def __init__(
        self,
        turns: Sequence[Turn],
        tools: list[Any] | None,
        template: ChatTemplate,
        parts: str,
        first: int,
    ) -> None:
        self._template, self._tools, self._first = template, tools, first
        self._any = _marks_from(first)
        self._turns = [self._with_marks(turn, n, parts) for n, turn in enumerate(turns)]
        marked = template.render(self._turns, tools)
        self.text = self._any.sub("", marked)
        places: dict[str, int] = {}  # where each is first: a tool's answer may name its call again
        for n, found in enumerate(self._any.finditer(marked)):
            places.setdefault(found[0], found.start() - n)
        self.places = [(place, mark, self._turn_of(mark)) for mark, place in places.items()]
        """(place in the text, mark, turn), in the order of the text."""

    def of(self, index: int) -> list[tuple[int, str]]:
        return [(place, mark) for place, mark, turn in self.places if turn == index]

    def opening(self, index: int, mark: str) -> str | None:
        """What the prompt of a turn has behind a mark; None: the mark is not in it."""
        prompt = self._template.render(self._turns[:index], self._tools, prompt=True)
        _, found, behind = prompt.rpartition(mark)
        return self._any.sub("", behind) if found else None

    def behind(self, index: int) -> str | None:
        """What a turn has behind its last mark where nothing follows it."""
        try:
            text = self._template.render(self._turns[: index + 1], self._tools)
        except RowRefused:
            return None
        marks = [f for f in self._any.finditer(text) if self._turn_of(f[0]) == index]
        return self._any.sub("", text[marks[-1].end() :]) if marks else None

    def _turn_of(self, mark: str) -> int:
        return (ord(mark) - self._first) // _PER_TURN

    def _with_marks(self, turn: Turn, index: int, parts: str) -> Turn:
        marks = [chr(self._first + _PER_TURN * index + n) for n in range(_PER_TURN)]
        begin, end, thought = (m if p in parts else "" for m, p in zip(marks, "SER", strict=False))
        marked = {**turn, "content": turn["content"] and _around(turn["content"], begin, end)}
        for key in ("reasoning_content", "thinking", "reasoning"):
            if key in turn:
                marked[key] = _around(turn[key], "", thought)
        if "tool_calls" in turn and "N" in parts:
            calls = zip(turn["tool_calls"], chain(marks[3:], repeat(marks[-1])), strict=False)
            marked["tool_calls"] = [_named(call, mark) for call, mark in calls]
        return marked


def _marks_from(first: int) -> re.Pattern[str]:
    return re.compile(f"[{chr(first)}-{chr(first + 0xFFFD)}]")


def _first_mark(turns: Sequence[Turn]) -> int:
    """Return the first of characters for private use that the row does not hold itself."""
    if len(turns) > _MOST_TURNS:
        raise RowRefused(f"the conversation has more than {_MOST_TURNS:,} turns")
    texts = json.dumps(turns, ensure_ascii=False)
    for first in _FIRST_MARKS:
        if not _marks_from(first).search(texts):
            return first
    raise RowRefused("the row holds characters for private use that are needed as marks")


def _around(text: str, begin: str, end: str) -> str:
    """Put marks where the answer in a text begins and ends; white space outside may be trimmed."""
    stripped = text.rstrip()
    if not stripped:
        return text
    answer = stripped.rpartition("</think>")[2].lstrip()
    if not answer:  # a thought alone
        inside = stripped.removesuffix("</think>").rstrip()
        return inside + end + text[len(inside) :] if inside else text
    first = len(stripped) - len(answer)
    return text[:first] + begin + answer + end + text[len(stripped) :]


def _named(call: dict[str, Any], mark: str) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "name": function["name"] + mark}}
