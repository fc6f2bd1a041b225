"""Columns beside the form's own: read, listed, refused or left out; and templates of columns."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest

from trials.data.conversation import Example, Message
from trials.data.formats import Reading, Rows, converted
from trials.data.table import Row, Table

USER, ASSISTANT = Message("user", "2+2?"), Message("assistant", "4")
MESSAGES = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
ALPACA = {"instruction": "2+2?", "input": "", "output": "4"}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "add", "parameters": {}}}


def read(rows: Sequence[dict[str, Any]], **keys: Any) -> tuple[Rows, list[str]]:
    """The rows, and everything that is wrong."""
    table = Table("t.jsonl", "t.jsonl", [Row(f"line {n}", row) for n, row in enumerate(rows, 1)])
    found, problems = converted(table, Reading(**keys))
    return found, [*problems, *table.bad.problems()]


def example(row: dict[str, Any], **keys: Any) -> Example:
    found, problems = read([row], **keys)
    assert not problems
    return found.examples[0]


@pytest.mark.parametrize(
    "column",
    [
        {"tools": [TOOL]},
        {"tools": [TOOL["function"]]},
        {"tools": json.dumps([TOOL])},
        {"tools": [json.dumps(TOOL)]},
        {"functions": [TOOL["function"]]},
        {"tools": [{**TOOL["function"], "parameters": "{}"}]},
    ],
)
@pytest.mark.parametrize("row", [{"messages": MESSAGES}, {"conversations": MESSAGES}, ALPACA])
def test_tools_have_one_form(row: dict[str, Any], column: dict[str, Any]) -> None:
    assert example(row | column).tool_list() == [TOOL]


@pytest.mark.parametrize("none", [None, [], "", "[]"])
def test_a_row_may_offer_no_tools(none: object) -> None:
    assert example({"messages": MESSAGES, "tools": none}).tools is None


def test_a_system_column_is_a_turn_or_stands_beside_the_pair() -> None:
    system = Message("system", "Be brief.")
    turns = example({"conversations": MESSAGES, "system": "Be brief."}).messages
    assert turns == (system, USER, ASSISTANT)
    assert example({**ALPACA, "system": "Be brief."}).conversation() == (system, USER, ASSISTANT)
    assert example({**ALPACA, "system": [{"text": "Be brief."}]}).system == "Be brief."
    assert example({**ALPACA, "system": ""}).system is None


def test_a_history_makes_a_conversation_whose_answers_are_all_learnt() -> None:
    row = {**ALPACA, "system": "S", "history": [["1+1?", "2"]]}
    earlier = Message("user", "1+1?"), Message("assistant", "2")
    assert example(row).messages == (Message("system", "S"), *earlier, USER, ASSISTANT)
    assert example({**row, "history": []}).messages is None


def test_two_different_system_turns_are_refused() -> None:
    row = {"messages": [{"role": "system", "content": "A"}, *MESSAGES], "system": "B"}
    _, [problem] = read([row])
    assert "the system turn must be that of the column `system`" in problem
    assert read([{**row, "system": "A"}])[1] == []


def test_the_input_stands_alone_where_the_instruction_is_empty() -> None:
    assert example({"instruction": " ", "input": "2+2?", "output": "4"}).prompt == "2+2?"


def test_turns_in_a_prompt_are_not_learnt() -> None:
    turns = example({"prompt": [*MESSAGES, MESSAGES[0]], "completion": [MESSAGES[1]]}).messages
    assert turns is not None
    assert [turn.learnt for turn in turns if turn.role == "assistant"] == [False, True]


def test_a_row_whose_weights_are_all_0_is_left_out_and_no_error() -> None:
    table = Table("t", "t", [Row("line 1", {"messages": [{**MESSAGES[1], "weight": 0}]})])
    found, problems = converted(table, Reading())
    assert (found.examples, problems, list(table.bad.problems())) == ([], [], [])
    [skipped] = table.bad.report()
    assert (skipped["rows"], skipped["places"]) == (1, "t line 1")


def test_a_column_that_is_not_read_is_counted_where_it_says_something() -> None:
    rows = [{**ALPACA, "id": n, "note": note} for n, note in enumerate(["", None, "a"])]
    assert read(rows)[0].unread == {"id": 3, "note": 1}


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"prompt": "a", "completion": "b", "label": False}, "label"),
        ({"messages": MESSAGES, "images": ["a.png"]}, "images"),
        ({"messages": MESSAGES, "rejected": MESSAGES}, "rejected"),
        ({"messages": [MESSAGES[0], {**MESSAGES[1], "audio": "a.wav"}]}, "audio"),
    ],
)
def test_what_changes_the_meaning_is_an_error_until_it_is_ignored(
    row: dict[str, Any], name: str
) -> None:
    _, [problem] = read([row])
    assert problem.endswith(f"data.ignore: [{name}]")
    found, problems = read([row], ignore=[name])
    assert (problems, found.unread, found.ignored) == ([], {}, {name})


def test_the_line_to_write_keeps_what_is_ignored_already() -> None:
    row = {"messages": MESSAGES, "images": ["a"], "label": 1}
    assert read([row], ignore=["label"])[1][0].endswith("data.ignore: [label, images]")


def test_columns_that_say_nothing_change_no_meaning() -> None:
    assert read([{"messages": MESSAGES, "images": [], "label": None}])[1] == []


def test_a_column_that_would_be_read_can_be_ignored() -> None:
    assert example({**ALPACA, "system": "S"}, ignore=["system"]).system is None


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"dialogue": MESSAGES}, "data.columns: {messages: dialogue}"),
        ({"dialogue": json.dumps(MESSAGES), "id": "1"}, "data.columns: {messages: dialogue}"),
        ({"Question": "a", "Answer": "b"}, "data.columns: {prompt: Question, completion: Answer}"),
        ({"answer": "a", "question": "b"}, "data.columns: {prompt: question, completion: answer}"),
        (
            {"instruction": "a", "context": "b", "response": "c", "category": "d"},
            "data.columns: {instruction: instruction, input: context, output: response}",
        ),
        (
            {"system_prompt": "s", "question": "b", "response": "c"},
            "{prompt: question, completion: response, system: system_prompt}",
        ),
        ({"body": "a"}, "data.columns: {text: body}"),
        ({"system": "a", "chat": "b"}, "{prompt: <its column>, completion: <its column>}"),
        (
            {"question": "a", "calls": [{"name": "f"}], "answer": "b"},
            "data.columns: {prompt: question, completion: answer}",
        ),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            "data.columns: {completion: chosen} and data.ignore: [rejected]",
        ),
        (
            {"prompt": MESSAGES[:1], "chosen": MESSAGES[1:], "rejected": MESSAGES[1:]},
            "data.columns: {completion: chosen} and data.ignore: [rejected]",
        ),
        (
            {"prompt": "2+2?", "chosen": MESSAGES, "rejected": MESSAGES},
            "data.columns: {messages: chosen} and data.ignore: [rejected]",
        ),
    ],
)
def test_unknown_columns_are_answered_with_the_line_to_write(
    row: dict[str, Any], hint: str
) -> None:
    _, [problem] = read([row])
    assert problem.endswith(hint)


PROMPT = {"prompt": "Question: {q}\nAnswer:", "completion": " {a}"}


def test_a_prompt_and_its_completion_are_built_from_columns() -> None:
    found = example({"q": "2+2?", "a": "4"}, **PROMPT)
    assert (found.prompt, found.completion) == ("Question: 2+2?\nAnswer:", " 4")


def test_an_empty_answer_is_refused_and_an_unknown_field_too() -> None:
    _, [problem] = read([{"q": "2+2?", "a": " "}], **PROMPT)
    assert "one field of data.completion must not be empty" in problem
    _, [problem] = read([{"q": "2+2?", "answer": "4"}], **PROMPT)
    assert problem.startswith("data.completion may hold only {column} fields")


def test_a_prompt_may_be_the_same_in_all_rows() -> None:
    assert example({"a": "4"}, prompt="A number:", completion=" {a}").prompt == "A number:"


def test_a_rows_own_system_turn_wins_and_is_counted() -> None:
    own = [{"role": "system", "content": "own"}, *MESSAGES]
    found, _ = read([{"messages": own}, {"messages": MESSAGES}], system="S")
    opening = [example.messages[0].content for example in found.examples if example.messages]
    assert (opening, found.n_own_system) == (["own", "S"], 1)


def test_a_system_turn_for_plain_texts_is_refused() -> None:
    _, [problem] = read([{"text": "a"}], system="S")
    assert problem.startswith("data.system needs rows with prompt and completion, or messages")


def test_whatever_a_row_holds_it_is_read_or_refused_in_words() -> None:
    for seed in range(1500):
        draw = random.Random(seed)
        turns = [*({**turn, draw.choice(KEYS): junk(draw)} for turn in MESSAGES), MESSAGES[1]]
        row = {draw.choice(COLUMNS): junk(draw), "messages": draw.choice([turns, junk(draw)])}
        table = Table("t", "t", [Row("line 1", row)], is_typed=draw.random() < 0.5)
        found, problems = converted(table, Reading(system=draw.choice([None, "S"])))
        assert found.examples or problems or table.bad.kinds, row
        for one in found.examples:
            assert [message.for_template() for message in one.conversation()]
            one.tool_list()


KEYS = "role from content value weight train tool_calls function_call name thinking parts".split()
COLUMNS = "system history tools functions text x".split()
TEXTS = ["", "a", "user", "[]", "{}", '{"name": "f", "arguments": {}}', "text", "\ud83d"]


def junk(draw: random.Random, depth: int = 0) -> object:
    """A JSON value of the words that turns and tools are made of."""
    kind = 0.0 if depth > 3 else draw.random()
    if kind < 0.5:
        return draw.choice([*TEXTS, None, 0, 1, 0.5, True, float("nan")])
    inner = [junk(draw, depth + 1) for _ in range(draw.randint(0, 3))]
    if kind < 0.7:
        return inner
    names = ["name", "arguments", "function", "type", "text", "role", "content", "id"]
    return {draw.choice(names): value for value in inner}


def test_rows_that_are_wrong_alike_are_told_together() -> None:
    _, problems = read([{"prompt": "a", "completion": "b" * (n % 2)} for n in range(16)])
    assert problems == [
        "8 rows of t.jsonl: `completion` must not be empty, found '' in the first: lines 1, 3, 5, "
        "7, 9 and 3 more. Fix or remove them, or leave such rows out with data.skip_bad_rows: true."
    ]


def test_turns_that_are_wrong_alike_are_one_kind_wherever_they_stand() -> None:
    empty = {"role": "assistant", "content": ""}
    rows = [{"messages": [MESSAGES[0], empty]}, {"messages": [*MESSAGES, MESSAGES[0], empty]}]
    _, [problem] = read(rows)
    assert problem.startswith("2 rows of t.jsonl: `content` of a turn of `messages` must not be")


@pytest.mark.parametrize("form", [lambda turns: turns, json.dumps])
def test_prompt_and_completion_may_be_turns_or_their_json(form: Any) -> None:
    assert example({"prompt": form(MESSAGES[:1]), "completion": form(MESSAGES[1:])}).messages == (
        USER,
        ASSISTANT,
    )


def test_one_of_prompt_and_completion_may_be_turns_and_the_other_a_text() -> None:
    assert example({"prompt": MESSAGES[:1], "completion": "4"}).messages == (USER, ASSISTANT)
    assert example({"prompt": "2+2?", "completion": MESSAGES[1:]}).messages == (USER, ASSISTANT)


def test_a_text_that_only_begins_as_json_stays_a_text() -> None:
    row = {"prompt": '[{"a": 1}]', "completion": '[{"b": 2}]'}
    assert example(row).prompt == row["prompt"]


@pytest.mark.parametrize(
    "row",
    [
        {"dialog": ["hi", "yo"]},
        {"id": "a1", "pairs": [["hi", "yo"]]},
        {"turns": [{"human": "q", "assistant": "a"}]},
    ],
)
def test_a_column_of_lists_is_told_what_a_turn_is(row: dict[str, Any]) -> None:
    [problem] = read([row])[1]
    assert f"`{list(row)[-1]}` seems to hold turns: write each as" in problem
    assert "data.columns" not in problem


def test_tools_of_the_system_turn_are_the_rows_if_it_has_none() -> None:
    turns = [{"role": "system", "content": "S", "tools": [TOOL]}, *MESSAGES]
    found, _ = read([{"messages": turns}])
    assert found.examples[0].tool_list() == [TOOL]
    assert not found.unread
    other = {**TOOL, "function": {"name": "other", "parameters": {}}}
    found, _ = read([{"messages": turns, "tools": [other]}])
    assert found.examples[0].tool_list() == [other]
    assert found.unread == {"messages[].tools": 1}


def test_a_name_to_ignore_that_is_not_there_is_not_advised_again() -> None:
    [problem] = read([{**ALPACA, "label": True}], ignore=["lable"])[1]
    assert problem.endswith("data.ignore: [label]")


def test_a_file_without_the_columns_of_others_is_read_in_its_own_form() -> None:
    columns = {"prompt": "question", "completion": "answer"}
    table = Table("b.jsonl", "b.jsonl", [Row("line 1", {"prompt": "2+2?", "completion": "4"})])
    found, problems = converted(table, Reading(columns=columns), {"question", "answer"})
    assert not problems
    assert found.examples[0].prompt == "2+2?"
    problems = converted(table, Reading(columns=columns))[1]
    assert all("It is read without data.columns" in problem for problem in problems)


def test_a_message_has_one_full_stop_behind_a_text_that_has_its_own() -> None:
    [problem] = read([{"messages": ["Hi."]}])[1]
    assert "found the text 'Hi.' Fix or remove that row" in problem
