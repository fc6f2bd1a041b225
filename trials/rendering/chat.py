"""A tokenizer's chat template: what it renders, and how it opens and ends a turn."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trials.config import DataError
from trials.data.conversation import Message
from trials.rendering.chat_templates import context, texts_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turn = dict[str, Any]
"""A message as the template reads it."""

_UNFINISHED = re.compile(r"[<\[][^>\]\s]*$")
"""The beginning of a mark whose end is cut off: `<|` of `<|user|>`."""
_MARK = re.compile(r"<[|/]?[^<>|\s]+\|?>|\[/?[A-Z_]+\]")
"""A mark that is no token by itself."""
_UNBEGUN = re.compile(r"^[^<\[\s]*[>\]]")
"""The end of a mark whose beginning is cut off."""


class RowRefused(DataError):
    """The chat template cannot render a row, or not so that its turns can be told."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What a template writes around the assistant's turns, told by two conversations of probes."""

    header: str
    """From the end of the user's text to where a finished turn departs from the prompt."""
    before: tuple[str, ...]
    """What finished turns may have between there and their text, such as an empty think block."""
    end: str
    """The end of a turn that another follows; empty: nothing ends it."""
    ends_turns: bool
    """Whether that is the turn's own end, not the mark of the next role."""


class ChatTemplate:
    """Renders conversations with a tokenizer's chat template.

    Args:
        arguments: What the template is given beside the conversation.
        day: The date that it may write, such as `2026-11-29`: the same for a whole study.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        arguments: Mapping[str, Any] | None = None,
        day: str | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._arguments = context(arguments or {}, day)
        for text in texts_of(tokenizer):
            _remember_safe_attributes(text)
        self._knows_developers = any("developer" in text for text in texts_of(tokenizer))
        # The longest first: one may begin as another does.
        special = sorted(map(str, tokenizer.added_tokens_encoder), key=len, reverse=True)
        self._specials = re.compile("|".join(map(re.escape, special)) or r"(?!)")
        self.end_of_sequence = str(tokenizer.eos_token or "")

    def turn(self, message: Message) -> Turn:
        """Return a message as the template reads it."""
        return (
            self._written(message, *self._call_form) if message.tool_calls else self._known(message)
        )

    def _known(self, message: Message) -> Turn:
        """Older templates know no developer."""
        turn = message.for_template()
        if turn["role"] == "developer" and not self._knows_developers:
            turn["role"] = "system"
        return turn

    def _written(self, message: Message, content: str | None, as_text: bool) -> Turn:
        turn = self._known(message)
        turn["content"] = turn["content"] or content
        for call in turn["tool_calls"] if as_text else ():
            function = call["function"]
            function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
        return turn

    @functools.cached_property
    def _call_form(self) -> tuple[str | None, bool]:
        """How calls are written: what stands for no content, and whether arguments are JSON text.

        Templates want one or the other, and leave a call out, or fail, where it is written
        otherwise.
        """
        call = {"type": "function", "function": {"name": "qxqf", "arguments": {"qxqk": "qxqv"}}}
        calling = Message("assistant", "", tool_calls=json.dumps([call | {"id": "qxqid0000"}]))
        asked = {"role": "user", "content": "qxq"}
        forms: tuple[tuple[str | None, bool], ...] = (
            ("", False),
            (None, False),
            ("", True),
            (None, True),
        )
        for form in forms:
            text = self._probe([asked, self._written(calling, *form)]) or ""
            if "qxqf" in text and "qxqv" in text:
                return form
        return forms[0]

    def render(
        self, turns: Sequence[Turn], tools: list[Any] | None, *, prompt: bool = False
    ) -> str:
        """Return the text of a conversation, with the opening of the next answer if `prompt`.

        Raises:
            RowRefused: The template refuses the conversation, or fails on it.
        """
        try:
            rendered = self._tokenizer.apply_chat_template(
                [self._shaped(turn) for turn in turns] if self.takes_parts else list(turns),
                tools=self._no_tools if tools is None else tools,
                tokenize=False,
                add_generation_prompt=prompt,
                **self._arguments,
            )
        # A template is a program: it raises whatever Python does, beside jinja2's own errors.
        except Exception as error:
            words = str(error).strip().splitlines() or [type(error).__name__]
            raise RowRefused(
                f"the chat template rejects the conversation: {words[0][:300].rstrip('.')}"
            ) from None
        return str(rendered)

    @staticmethod
    def _shaped(turn: Turn) -> Turn:
        return {**turn, "content": [{"type": "text", "text": turn["content"] or ""}]}

    @functools.cached_property
    def takes_parts(self) -> bool:
        """Whether a text must be given as a list of parts, as templates for images want it."""
        self.__dict__["takes_parts"] = False  # for the renderings below
        question = {"role": "user", "content": "qxq"}
        if "qxq" in (self._probe([question]) or "qxq"):
            return False
        return "qxq" in (self._probe([self._shaped(question)]) or "")

    def _probe(self, turns: Sequence[Turn], *, prompt: bool = False) -> str | None:
        opening, tools = self._probing
        try:
            return self.render([*opening, *turns], tools, prompt=prompt)
        except RowRefused:
            return None

    @functools.cached_property
    def _probing(self) -> tuple[list[Turn], list[Any] | None]:
        """What probes need beside them: some templates want a system turn, some want tools."""
        system, plain = {"role": "system", "content": "Help."}, {"role": "user", "content": "qxq"}
        function = {"name": "help", "description": "", "parameters": {}}
        tools = [{"type": "function", "function": function}]
        for beside in (([], None), ([system], None), ([], tools), ([system], tools)):
            try:
                self.render([*beside[0], plain], beside[1])
            except RowRefused:
                continue
            return beside
        return [], None

    @functools.cached_property
    def _no_tools(self) -> list[Any] | None:
        """What stands for no tools: some templates go through the list without asking."""
        self.__dict__["_no_tools"] = None  # for the rendering below
        question = [{"role": "user", "content": "qxq"}]
        nothing: list[Any] | None
        for nothing in (None, []):
            self.__dict__["_no_tools"] = nothing
            try:
                self.render(question, None)
            except RowRefused:
                continue
            return nothing
        return None

    @functools.cached_property
    def marks(self) -> Marks:
        """How turns begin and end, as far as a plain conversation tells."""
        words = ("qxqa", "qxqb", "qxqc", "qxqd")
        roles = ("user", "assistant") * 2
        turns = [{"role": r, "content": w} for r, w in zip(roles, words, strict=True)]
        whole, prompt = self._probe(turns), self._probe(turns[:3], prompt=True)
        if whole is None or prompt is None or not all(word in whole for word in words):
            return Marks("", ("",), self.end_of_sequence, True)
        a, b, c, d = (whole.index(word) for word in words)
        opening = prompt[prompt.rindex("qxqc") + 4 :]
        headers = [
            self.shared(opening, whole[begin:stop]) for begin, stop in ((a + 4, b), (c + 4, d))
        ]
        before = "", whole[a + 4 + len(headers[0]) : b], whole[c + 4 + len(headers[1]) : d]
        opens_always = whole == self._probe(turns, prompt=True)
        end, ends_turns = self._end(
            whole[:a], whole[a + 4 : b], whole[b + 4 : c], "" if opens_always else whole[d + 4 :]
        )
        return Marks(min(headers, key=len), tuple(dict.fromkeys(before)), end, ends_turns)

    def _end(self, start: str, asked: str, answered: str, last: str) -> tuple[str, bool]:
        """Tell the end of a turn from what stands around the texts of the probes.

        It is what the last answer and one before another turn have in common behind them; where a
        template always opens the next answer, what an answer has behind it that the first user
        turn has not before it; else the first mark: that of the next role, unless it ends the
        user's turns too.

        Args:
            start: Before the first user turn.
            asked: Behind a user turn, up to the answer.
            answered: Behind an answer, up to the next user turn.
            last: Behind the last answer; empty where that opens the next one.
        """
        common = _UNFINISHED.sub("", self.shared(answered, last)).strip()
        cut = len(answered) - _common_suffix(start, answered)
        if unbegun := _UNBEGUN.match(answered[cut:]):
            cut += unbegun.end()
        own, eos = answered[:cut].strip(), self.end_of_sequence
        if found := common or own:
            behind = answered[answered.index(found) + len(found) :].lstrip()
            return (found + eos if not common and eos and behind.startswith(eos) else found), True
        if eos and answered.lstrip().startswith(eos):
            return eos, True
        mark = answered[: self.first_mark(answered)].lstrip()
        if not mark:
            return answered.rstrip(), False
        mark = mark[self._begin_of_last(mark) :]
        return mark, asked.lstrip().startswith(mark)

    def is_special(self, text: str) -> bool:
        """Whether `text` is one token by itself."""
        return self._specials.fullmatch(text) is not None

    def _begin_of_last(self, text: str) -> int:
        """Where the mark begins that `text` ends with; its length if it ends with none."""
        for marks in (self._specials, _MARK):
            found = list(marks.finditer(text))
            if found and found[-1].end() == len(text):
                return found[-1].start()
        return len(text)

    def ends_with_mark(self, text: str) -> bool:
        """Whether `text` ends with a mark, such as a special token."""
        return self._begin_of_last(text) < len(text)

    def first_mark(self, text: str) -> int:
        """Return where the first special token of `text` ends, else the first mark; 0: none."""
        found = self._specials.search(text) or _MARK.search(text)
        return found.end() if found else 0

    def shared(self, one: str, other: str) -> str:
        """Return the longest beginning that both have, never a part of a special token."""
        n = common_prefix(one, other)
        inside = (
            found.start()
            for text in (one, other)
            for found in self._specials.finditer(text)
            if found.start() < n < found.end()
        )
        return one[: min(inside, default=n)]


def common_prefix(one: str, other: str) -> int:
    n = min(len(one), len(other))
    if one[:n] == other[:n]:
        return n
    low, high = 0, n  # one[:low] is shared, one[:high] is not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle)
    return low


def _common_suffix(one: str, other: str) -> int:
    return common_prefix(one[::-1], other[::-1])


def _remember_safe_attributes(text: str) -> None:
    """Let jinja's sandbox decide once for each type and attribute: a third of a rendering's time.

    Its answer depends on nothing else. transformers compiles each template once and keeps it.
    """
    from transformers.utils import chat_template_utils

    try:
        environment: Any = chat_template_utils._compile_jinja_template(text).environment
    except Exception:  # a template that does not compile says so where it renders
        return
    decide, known = environment.is_safe_attribute, {}
    if "is_safe_attribute" in vars(environment):
        return

    def is_safe_attribute(obj: Any, attribute: str, value: Any) -> bool:
        key = type(obj), attribute
        if key not in known:
            known[key] = decide(obj, attribute, value)
        return bool(known[key])

    environment.is_safe_attribute = is_safe_attribute
