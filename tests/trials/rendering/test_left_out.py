"""Which parts of a row are found in its rendering."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trials.data.conversation import Example, Message
from trials.rendering.left_out import CALLS, REASONING, pieces

CALL = [{"type": "function", "function": {"name": "sky", "arguments": {"city": 'Ro"me', "n": 3}}}]
TOOL = [{"type": "function", "function": {"name": "sky", "parameters": {}}}]


def talk(*messages: Message, tools: str | None = None) -> Example:
    return Example(messages, None, None, None, "row 1", tools)


def lost(example: Example, text: str) -> list[tuple[str, int]]:
    return [(kind, n) for kind, n, is_there in pieces(example, text) if not is_there]


def kinds(example: Example, text: str) -> list[str]:
    return [kind for kind, *_ in pieces(example, text)]


ASKED = Message("user", " How is it? ")
PAIR = talk(ASKED, Message("assistant", "Fine."))


def test_white_space_around_a_text_may_be_trimmed() -> None:
    assert kinds(PAIR, "") == ["user turns", "assistant turns"]
    assert lost(PAIR, "How is it?|Fine.") == []


def test_a_text_that_is_not_there_is_lost_with_its_size() -> None:
    assert lost(PAIR, "How is it?") == [("assistant turns", 5)]
    opened = talk(Message("system", "Be brief."), *PAIR.conversation())
    assert lost(opened, "How is it?|Fine.") == [("system turns", 9)]


def test_equal_texts_must_be_there_as_often() -> None:
    twice = talk(ASKED, Message("assistant", "a"), ASKED, Message("assistant", "a"))
    assert lost(twice, "How is it? a How is it? a") == []
    assert [kind for kind, _ in lost(twice, "How is it? | a")] == ["user turns", "assistant turns"]


def test_a_text_within_another_is_not_there_for_that() -> None:
    row = talk(Message("user", "Is it fine?"), Message("assistant", "fine"))
    assert lost(row, "Is it fine?") == [("assistant turns", 4)]


def test_a_text_may_stand_as_json() -> None:
    row = talk(ASKED, Message("tool", '{"sky": "sun"}\n1'), Message("assistant", "Fine."))
    text = f"How is it? {json.dumps(row.conversation()[1].content)} Fine."
    assert lost(row, text) == []


@pytest.mark.parametrize(
    "message", [Message("assistant", "<think>\nhm hm\n</think>\nFine."),
                Message("assistant", "Fine.", reasoning="hm hm")]
)  # fmt: skip
def test_a_thought_is_a_kind_of_its_own(message: Message) -> None:
    assert lost(talk(ASKED, message), "How is it? Fine.") == [(REASONING, 5)]
    assert lost(talk(ASKED, message), "How is it? <think>hm hm</think> Fine.") == []


def test_calls_and_tools_are_looked_for() -> None:
    calling = Message("assistant", "", tool_calls=json.dumps(CALL))
    row = talk(ASKED, calling, tools=json.dumps(TOOL))
    assert lost(row, "How is it?") == [(CALLS, 3), (CALLS, 5), ("tools", 3)]
    called = 'How is it? {"name": "sky", "arguments": {"city": "Ro\\"me", "n": 3}}'
    assert lost(row, called) == [("tools", 3)]
    assert lost(row, f"Tools: sky. {called}") == []


@pytest.mark.parametrize("tool", [{"name": "sky"}, {"function": {"name": "sky"}}, {}, "sky"])
def test_a_tool_without_a_name_is_not_looked_for(tool: Any) -> None:
    row = talk(*PAIR.conversation(), tools=json.dumps([tool]))
    named = isinstance(tool, dict) and bool(tool)
    assert ("tools" in kinds(row, "")) == named
