"""Turns as people write them, and the messages they become."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from trials.data.bad_rows import BadRow
from trials.data.conversation import Message
from trials.data.turns import Turns

ASKED = {"role": "user", "content": "2+2?"}
ANSWERED = {"role": "assistant", "content": "4"}
CALL = {"name": "add", "arguments": {"a": 2}}
WRAPPED = {"type": "function", "function": CALL}


def read(*turns: object, is_typed: bool = False) -> tuple[Message, ...]:
    return Turns((), is_typed).read(list(turns), "messages")


def answer(**keys: Any) -> Message:
    """The message of an assistant's turn with these keys."""
    [message] = read({"role": "assistant", **keys})
    return message


@pytest.mark.parametrize(
    ("said", "role"),
    [
        *[(said, "user") for said in ("user", "Human", " USER ", "prompter")],
        *[(said, "assistant") for said in ("gpt", "bot", "model", "chatgpt", "Assistant", "AI")],
        *[(said, "tool") for said in ("tool", "observation", "function")],
        ("System", "system"),
        ("developer", "developer"),
    ],
)
def test_roles_have_many_names(said: str, role: str) -> None:
    [message] = read({"from": said, "value": "4"})
    assert message == Message(role, "4")


@pytest.mark.parametrize(
    "keys", [("role", "content"), ("from", "value"), ("speaker", "text"), ("role", "value")]
)
def test_a_turn_has_its_role_and_text_under_several_names(keys: tuple[str, str]) -> None:
    assert read(dict(zip(keys, ("user", "a"), strict=True))) == (Message("user", "a"),)


@pytest.mark.parametrize(
    "value",
    [
        [ASKED, ANSWERED],
        json.dumps([ASKED, ANSWERED]),
        {"role": ["user", "assistant"], "content": ["2+2?", "4"]},
        {"role": ["user", "assistant"], "content": ["2+2?", "4"], "name": None},
        [{**ASKED, "weight": None, "name": None}, {**ANSWERED, "tool_calls": None}],
    ],
)
def test_messages_may_be_a_list_or_json_text_or_lists_of_a_struct(value: object) -> None:
    turns = Turns((), True)
    assert turns.read(value, "m") == (Message("user", "2+2?"), Message("assistant", "4"))
    assert not turns.unread


@pytest.mark.parametrize(
    "keys",
    [
        {"content": None, "tool_calls": [WRAPPED]},
        {"tool_calls": [CALL]},
        {"content": "", "tool_calls": [{**CALL, "arguments": '{"a": 2}'}]},
        {"tool_calls": json.dumps([WRAPPED])},
        {"function_call": {"name": "add", "arguments": '{"a": 2}'}},
    ],
)
def test_every_form_of_a_call_becomes_the_one_that_templates_read(keys: dict[str, Any]) -> None:
    message = answer(**keys)
    assert message.content == ""
    assert json.loads(str(message.tool_calls)) == [WRAPPED]


def test_a_call_keeps_its_id_and_its_answer_names_it() -> None:
    asked, told = read(
        {"role": "assistant", "tool_calls": [{"id": "c1", **WRAPPED}]},
        {"role": "tool", "tool_call_id": "c1", "name": "add", "content": "4"},
    )
    assert json.loads(str(asked.tool_calls))[0]["id"] == "c1"
    assert told == Message("tool", "4", name="add", tool_call_id="c1")


def test_sharegpt_calls_in_a_turn_of_its_own() -> None:
    [message] = read({"from": "function_call", "value": json.dumps(CALL)})
    assert (message.role, json.loads(str(message.tool_calls))) == ("assistant", [WRAPPED])


@pytest.mark.parametrize(
    ("is_typed", "arguments"), [(True, {"a": 2}), (False, {"a": 2, "b": None})]
)
def test_only_the_nulls_that_arrow_adds_are_left_out(
    is_typed: bool, arguments: dict[str, object]
) -> None:
    call = {"name": "add", "arguments": {"a": 2, "b": None}}
    [message] = read({"role": "assistant", "tool_calls": [call]}, is_typed=is_typed)
    assert json.loads(str(message.tool_calls))[0]["function"]["arguments"] == arguments


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_has_three_names(key: str) -> None:
    assert answer(content="4", **{key: "Add."}) == Message("assistant", "4", "Add.")


def test_a_turn_may_be_reasoning_alone() -> None:
    assert answer(content="", thinking="Add.").reasoning == "Add."


def test_parts_are_joined_and_thoughts_among_them_are_reasoning() -> None:
    parts = [{"type": "thinking", "thinking": "T"}, {"type": "text", "text": "a"}, {"text": "b"}]
    assert answer(content=parts) == Message("assistant", "ab", "T")


@pytest.mark.parametrize("key", ["weight", "train", "training", "loss"])
@pytest.mark.parametrize(("said", "learnt"), [(0, False), (1, True), (False, False), (1.0, True)])
def test_weights_say_which_turns_are_learnt(key: str, said: object, learnt: bool) -> None:
    assert answer(content="4", **{key: said}).learnt is learnt


def test_keys_that_are_not_read_are_counted() -> None:
    turns = Turns((), False)
    call = {**CALL, "score": 3}
    turns.read(
        [
            {**ASKED, "date": "today", "empty": [], "weight": 0},
            {**ASKED, "date": "today", "weight": 1},
            {"role": "assistant", "tool_calls": [call], "function_call": CALL, "name": None},
        ],
        "messages",
    )
    assert turns.unread == Counter(
        {
            "messages[].date": 2,
            "messages[].weight": 1,
            "messages[].tool_calls[].score": 1,
            "messages[].function_call": 1,
        }
    )


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        ({"role": "assistant", "content": ""}, "`content` of turn 1 .* must not be empty"),
        ({"role": "user"}, "turn 1 of `messages` must have `role` and `content`"),
        ({**ANSWERED, "weight": 0.5}, "`weight` of turn 1 .* 0 or 1.* found the number 0.5"),
        ({**ANSWERED, "weight": 0, "train": True}, "`weight`, `train` of turn 1 .* must agree"),
        ({**ASKED, "content": [{"type": "image_url"}]}, "found a part of type image_url"),
        ({**ASKED, "content": [{"type": "input_audio"}]}, "found a part of type input_audio"),
        ({"role": "assistant", "tool_calls": [{"name": 1}]}, "a call in `tool_calls` of turn 1"),
        (
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "Oslo"}]},
            "arguments of a call .* must be a JSON object, found the text 'Oslo'",
        ),
        ({"from": "function_call", "value": "no JSON"}, "must be a list, or a list as JSON text"),
        ({**ANSWERED, "thinking": 3}, "`thinking` of turn 1 .* must be text"),
        ({"role": "assistant", "tool_calls": [{"name": "\ud83d"}]}, "whole characters"),
    ],
)
def test_what_cannot_be_read_is_refused(turn: object, words: str) -> None:
    with pytest.raises(BadRow, match=words):
        read(turn)


def test_a_history_is_questions_and_answers_or_turns() -> None:
    turns = Turns((), False)
    messages = (Message("user", "2+2?"), Message("assistant", "4"))
    for given in ([["2+2?", "4"]], '[["2+2?", "4"]]', [ASKED, ANSWERED]):
        assert turns.history(given, "history") == messages
    with pytest.raises(BadRow, match=r"turn 1 of `history` must be \[question, answer\]"):
        turns.history([["2+2?"]], "history")


def test_train_on_turn_says_whether_a_turn_is_learnt() -> None:
    first, last = ({"role": "assistant", "content": text} for text in "ab")
    turns = Turns((), is_typed=False)
    read = turns.read([{**first, "train_on_turn": False}, last], "messages")
    assert [turn.learnt for turn in read] == [False, True]
    assert not turns.unread


def test_an_empty_turn_that_is_not_learnt_is_context() -> None:
    turn = {"role": "assistant", "content": "", "weight": 0}
    [read] = Turns((), is_typed=False).read([turn], "messages")
    assert (read.content, read.learnt) == ("", False)
