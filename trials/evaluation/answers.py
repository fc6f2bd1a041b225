"""The answer in what a model wrote: without what it thought first, and without marks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_THOUGHTS = {
    "<think>": "</think>",  # Qwen, DeepSeek, GLM, Nemotron, LFM and most others
    "<thought>": "</thought>",  # EXAONE Deep
    "[THINK]": "[/THINK]",  # Magistral
    "<seed:think>": "</seed:think>",
    "<|START_THINKING|>": "<|END_THINKING|>",  # Command A
    "<|inner_prefix|>": "<|inner_suffix|>",  # Apertus
    "◁think▷": "◁/think▷",  # Kimi
    "<|channel>thought": "<channel|>",  # Gemma 4
    "<|channel|>analysis<|message|>": "<|end|>",  # gpt-oss
    " to=self<|message|>": "<|eom|>",  # Muse
}
"""What opens a thought → what closes it."""

_NEXT = r"\s*?(?:<\|start\|>assistant)?"
"""gpt-oss and Muse write several messages in a turn, each with a header."""
_OPEN = re.compile(_NEXT + f"(?:{'|'.join(map(re.escape, _THOUGHTS))})")
_CLOSED = re.compile(
    "|".join(f"{_NEXT}{re.escape(o)}.*?{re.escape(c)}" for o, c in _THOUGHTS.items()), re.DOTALL
)
_MESSAGE = re.compile(_NEXT + r"(?:<\|channel\|>| to=user<\|message\|>)")
_FINAL = re.compile(_NEXT + r"(?:<\|channel\|>final| to=user)<\|message\|>")

_TAIL_TOKENS = 16
"""Of a prompt: enough for the longest mark that opens a thought."""


@dataclass(frozen=True, slots=True)
class Written:
    """A completion in its parts."""

    thought: str
    """Its marks included; empty where there is none."""
    answer: str
    is_open: bool
    """Whether it begins with a mark of a thought that is never closed."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads completions, true ones and generated ones alike."""

    tokenizer: PreTrainedTokenizerBase
    is_chat: bool
    """White space around an answer is then the template's."""
    end: str = ""
    """A text that ends a turn, where no token does."""

    def read(
        self, prompt: Sequence[int], ids: Sequence[int], *, keeps_open: bool = False
    ) -> Written:
        """Part what follows `prompt`. Marks count at its beginning: an answer may speak of them.

        Args:
            keeps_open: What a thought's mark opens and nothing closes is the answer; else it is a
                thought that did not come to its end, and the answer is empty.
        """
        text = self._decoded(ids)
        opened = self._opened_by(prompt)
        whole, begin = opened + text, 0
        while block := _CLOSED.match(whole, begin):
            begin = block.end()
        is_open = _OPEN.match(whole, begin) is not None
        if is_open and not keeps_open:
            return Written(text, "", True)
        if is_open:
            begin = max(begin, len(opened))
        thought, answer = whole[:begin], whole[begin:]
        if _MESSAGE.match(answer) and (final := _FINAL.search(answer)):
            answer = answer[final.end() :].partition("<|end|>")[0]
        if self.end:
            answer = answer.partition(self.end)[0]
        answer = self._without_marks(answer)
        return Written(thought, answer.strip() if self.is_chat else answer, is_open)

    def shown(self, prompt: Sequence[int], ids: Sequence[int], *, is_cut: bool) -> str:
        """Return what a person is shown of what follows `prompt`: a thought that does not end, too.

        Args:
            is_cut: Whether more would follow.
        """
        read = self.read(prompt, ids, keeps_open=True)
        return f"{read.answer or read.thought}{' …' if is_cut else ''}"

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def _opened_by(self, prompt: Sequence[int]) -> str:
        """The mark at the prompt's end, if it leaves a thought open for the model to fill."""
        tail = self._decoded(prompt[-_TAIL_TOKENS:]).rstrip()
        return next((mark for mark in _THOUGHTS if tail.endswith(mark)), "")

    def _without_marks(self, text: str) -> str:
        for mark in self.tokenizer.all_special_tokens:
            text = text.replace(mark, "")
        for token in self.tokenizer.added_tokens_decoder.values():
            text = text.replace(token.content, "") if token.special else text
        return text
