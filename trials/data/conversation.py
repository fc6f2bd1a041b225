"""Rows in normal form: conversations, prompts with completions, or texts."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    """system, developer, user, assistant or tool."""
    content: str
    """Empty where the turn has none, such as one that only calls a tool."""
    reasoning: str | None = None
    """What the assistant thought before the content, where the row keeps it apart."""
    tool_calls: str | None = None
    """The assistant's calls, as JSON: a list of
    `{"type": "function", "function": {"name": …, "arguments": {…}}}`, with `id` where given."""
    name: str | None = None
    """Of the tool that answers."""
    tool_call_id: str | None = None
    """The call that the tool answers."""
    learnt: bool = True
    """Whether a turn of the assistant is learnt; says nothing of others."""

    @property
    def beside(self) -> list[object] | None:
        """All but the role and the content; None where that is all."""
        found: list[object] = [
            self.reasoning,
            self.tool_calls,
            self.name,
            self.tool_call_id,
            self.learnt,
        ]
        return None if found == [None, None, None, None, True] else found

    def for_template(self) -> dict[str, Any]:
        """The turn as chat templates read it. Reasoning has three names among them."""
        turn: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.reasoning is not None:
            turn |= dict.fromkeys(("reasoning_content", "thinking", "reasoning"), self.reasoning)
        if self.tool_calls is not None:
            turn["tool_calls"] = json.loads(self.tool_calls)
        if self.name is not None:
            turn["name"] = self.name
        if self.tool_call_id is not None:
            turn["tool_call_id"] = self.tool_call_id
        return turn


@dataclass(frozen=True, slots=True)
class Example:
    """One row in normal form: a conversation, a prompt with its completion, or a text."""

    messages: tuple[Message, ...] | None
    """Ends with a turn of the assistant."""
    prompt: str | None
    """Set together with `completion`. May be empty."""
    completion: str | None
    text: str | None
    place: str
    """Where it stood, for messages: `train.jsonl line 17`, `train.csv row 17`."""
    tools: str | None = None
    """The functions that the assistant may call, as JSON: a list of JSON schemas."""
    system: str | None = None
    """The system turn before a prompt, where the chat template renders it."""

    def conversation(self) -> tuple[Message, ...]:
        """The turns that a chat template renders: those of the row, or of its prompt."""
        if self.messages is not None:
            return self.messages
        opening = () if self.system is None else (Message("system", self.system),)
        pair = Message("user", str(self.prompt)), Message("assistant", str(self.completion))
        return *opening, *pair

    def tool_list(self) -> list[Any] | None:
        return None if self.tools is None else _tools(self.tools)


@functools.lru_cache(maxsize=256)
def _tools(text: str) -> list[Any]:
    """Parsed once: most rows of a file offer the same tools."""
    parsed: list[Any] = json.loads(text)
    return parsed
