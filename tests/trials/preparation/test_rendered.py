"""What is said of the rows that a chat template refuses, or renders in part."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from tests import tiny
from trials.config import DataError
from trials.data.conversation import Example, Message
from trials.preparation.rendered import examples, rendering_notes, token_rows, usable
from trials.rendering.left_out import CALLS, REASONING
from trials.rendering.renderer import Renderer, RowCounts

USER, ANSWER = Message("user", "oslo rain"), Message("assistant", "rain")
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system turn') }}"
    "{% endif %}{{ m.role }} {{ m.content }} </s> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def row(*messages: Message, place: str = "row 1", tools: Any = None) -> Example:
    return Example(messages, None, None, None, place, None if tools is None else json.dumps(tools))


PAIR = row(USER, ANSWER)
OPENED = [row(Message("system", "oslo"), USER, ANSWER, place=f"row {n}") for n in range(2, 9)]


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    tokenizer = copy.deepcopy(tiny.make_tokenizer())
    tokenizer.chat_template = TEMPLATE
    return Renderer(tokenizer, chat=True, loss_on="completion")


def seen(renderer: Renderer, rows: list[Example]) -> RowCounts:
    return renderer.tokenized(rows)[1]


def test_all_rows_are_usable_that_are_rendered(renderer: Renderer) -> None:
    splits = {"train": [PAIR, PAIR], "eval": [PAIR]}
    counts = {name: seen(renderer, rows) for name, rows in splits.items()}
    assert usable(splits, counts, skip=False) == splits
    assert rendering_notes(counts.values()) == []


def test_rows_that_are_refused_are_told_of_all_splits_at_once(renderer: Renderer) -> None:
    splits = {"train": [PAIR, *OPENED], "eval": OPENED[:1]}
    counts = {name: seen(renderer, rows) for name, rows in splits.items()}
    with pytest.raises(DataError) as raised:
        usable(splits, counts, skip=False)
    train, evaluated = str(raised.value).splitlines()
    assert train.startswith("data.train: 7 of 8 rows: the chat template rejects the conversation")
    assert "(row 2, row 3, row 4, row 5, row 6, …)" in train
    assert evaluated.startswith("data.eval: 1 of 1 rows:") and "(row 2)" in evaluated


def test_rows_that_are_refused_may_be_skipped_and_are_counted(renderer: Renderer) -> None:
    splits = {"train": [PAIR, *OPENED, PAIR]}
    counts = {"train": seen(renderer, splits["train"])}
    assert usable(splits, counts, skip=True) == {"train": [PAIR, PAIR]}
    [note] = rendering_notes(counts.values())
    assert note.startswith("7 rows are skipped: the chat template rejects the conversation")


def test_a_split_is_never_skipped_whole(renderer: Renderer) -> None:
    splits = {"train": [PAIR], "eval": OPENED}
    counts = {name: seen(renderer, rows) for name, rows in splits.items()}
    with pytest.raises(DataError, match=r"data\.eval: 7 of 7 rows"):
        usable(splits, counts, skip=True)


CALL = [{"type": "function", "function": {"name": "sky", "arguments": {"city": "oslo"}}}]


def test_what_is_left_out_of_all_rows_is_an_error_and_what_of_some_a_note(
    renderer: Renderer,
) -> None:
    tool = {"type": "function", "function": {"name": "hail", "parameters": {}}}
    calling = Message("assistant", "rain", tool_calls=json.dumps(CALL))
    splits = {"train": [PAIR, row(USER, calling, tools=[tool])]}
    with pytest.raises(DataError) as raised:
        usable(splits, {"train": seen(renderer, splits["train"])}, skip=True)
    tools = [line for line in str(raised.value).splitlines() if " all tools of " in line]
    assert "leaves out all tools of the rows" in tools[0] and "data.ignore: [tools]" in tools[0]
    some = {"train": RowCounts(parts={CALLS: [4, 1, 9], "system turns": [3, 0, 0]})}
    assert usable({"train": [PAIR]}, some, skip=False) == {"train": [PAIR]}
    [note] = rendering_notes(some.values())
    assert note.startswith(f"The chat template leaves out 1 of 4 {CALLS} (9 characters)")


def test_thoughts_may_be_left_out_of_all_rows(renderer: Renderer) -> None:
    thinks = [row(USER, Message("assistant", "rain", reasoning="snow hail"))]
    counts = {"train": seen(renderer, thinks)}
    assert usable({"train": thinks}, counts, skip=False) == {"train": thinks}
    [note] = rendering_notes(counts.values())
    assert "leaves out the reasoning of 1 of 1 turns (9 characters)" in note
    assert counts["train"].parts[REASONING] == [1, 1, 9]


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (RowCounts(turns=5, rewritten=2), "Before 2 of 5 learnt turns"),
        (RowCounts(closed=3), "an end is added, and learnt, in 3 rows"),
        (RowCounts(split=1200), "In 1,200 rows a token would lie across"),
    ],
)
def test_what_a_reader_would_not_expect_is_noted(counts: RowCounts, words: str) -> None:
    [note] = rendering_notes([RowCounts(), counts])
    assert words in note


def test_the_first_row_of_each_form_is_shown(renderer: Renderer) -> None:
    masked = row(USER, Message("assistant", "snow", learnt=False), USER, ANSWER, place="row 4")
    rows = [PAIR, row(USER, ANSWER, place="row 2"), masked]
    split, _ = renderer.tokenized(rows)
    shown = examples(rows, split, renderer, 64)
    [cut, *_] = examples(rows, split, renderer, int(split.lengths[0]) - 1)
    assert cut["place"].endswith(f", its first {split.lengths[0] - 1} tokens")
    assert examples(rows, split, renderer, 1) == []  # nothing is learnt of it
    assert [each["place"] for each in shown] == ["row 1", "row 4"]
    for index, each in zip((0, 2), shown, strict=True):
        begin, end = split.offsets[index], split.offsets[index + 1]
        ids, mask = split.ids[begin:end], split.supervised[begin:end]
        text = "".join(text for text, is_learnt in each["segments"] if is_learnt)
        assert text.replace(" ", "") == renderer.tokenizer.decode(ids[mask]).replace(" ", "")


def test_rows_are_shown_token_by_token(renderer: Renderer) -> None:
    split, _ = renderer.tokenized([PAIR, PAIR])
    [shown] = token_rows([PAIR, PAIR], split, renderer, 1)
    n = split.offsets[1]
    assert [token for _, token, _ in shown["tokens"]] == split.ids[:n].tolist()
    assert [learnt for *_, learnt in shown["tokens"]] == split.supervised[:n].tolist()
