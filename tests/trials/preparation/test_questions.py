"""Which held-out prompts are asked at a sweep's end, and how long an answer may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny
from trials.data.conversation import Example, Message
from trials.evaluation.generate import Prompts
from trials.preparation.questions import write_questions
from trials.rendering.renderer import Renderer


@pytest.fixture
def renderer() -> Renderer:
    return Renderer(tiny.make_tokenizer(), chat=False, loss_on="completion")


def row(**parts: str) -> Example:
    given = {"messages": None, "prompt": None, "completion": None, "text": None, **parts}
    return Example(**given, place="here")  # type: ignore[arg-type]


PAIRS = [row(prompt=f"{place} :", completion=" rain and snow") for place in tiny.PLACES]


def asked(n: int, rows: list[Example], renderer: Renderer, folder: Path, length: int) -> Prompts:
    report = write_questions(n, rows, renderer, max_length=length, folder=folder)
    found = Prompts.load(folder, "answers")
    assert report["rows"] == len(found.prompts)
    assert report["max_new_tokens"] == found.max_new_tokens
    return found


def test_they_lie_evenly_among_the_eval_rows(renderer: Renderer, tmp_path: Path) -> None:
    found = asked(4, PAIRS[:12], renderer, tmp_path, 64)
    assert [each["prompt"] for each in found.rows] == [PAIRS[i].prompt for i in (0, 3, 6, 9)]
    assert found.references == ["rain and snow"] * 4
    assert found.max_new_tokens == 4  # with the end of the sequence


def test_a_text_is_continued_from_its_middle(renderer: Renderer, tmp_path: Path) -> None:
    found = asked(1, [row(text="oslo rain and wild snow today")], renderer, tmp_path, 64)
    assert found.rows == [{"prompt": "oslo rain and"}]
    assert found.references == ["wild snow today"]
    cut = asked(1, [row(text="oslo rain and wild snow today")], renderer, tmp_path, 4)
    assert (cut.rows, cut.references) == ([{"prompt": "oslo rain"}], ["and wild"])


@pytest.mark.parametrize("length", [6, 8, 64])
def test_no_answer_goes_beyond_max_length(renderer: Renderer, tmp_path: Path, length: int) -> None:
    """Rows whose prompt leaves no room for an answer are taken only where there are no others."""
    long = [row(prompt="snow " * 5 + ":", completion=" oslo" * 9) for _ in range(3)]
    found = asked(2, [*long, PAIRS[0]], renderer, tmp_path, length)
    assert max(map(len, found.prompts)) + found.max_new_tokens <= length


def test_what_is_cut_of_a_true_answer_says_so(renderer: Renderer, tmp_path: Path) -> None:
    found = asked(1, [row(prompt="oslo :", completion=" rain" * 9)], renderer, tmp_path, 8)
    assert found.references == ["rain rain rain rain …"]


def test_a_conversation_is_shown_without_the_marks_of_its_template(tmp_path: Path) -> None:
    tokenizer = tiny.make_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} </s> {% endfor %}"
    turns = [("user", "oslo"), ("assistant", "rain"), ("user", "lille"), ("assistant", "snow")]
    messages = tuple(Message(role, content) for role, content in turns)
    example = Example(messages, None, None, None, "here")
    chat = Renderer(tokenizer, chat=True, loss_on="completion")
    found = asked(1, [example], chat, tmp_path, 64)
    assert found.rows == [{"prompt": "user: oslo\nassistant: rain\nuser: lille"}]
    assert found.references == ["snow"]


def test_none_are_asked_where_none_are_wanted(renderer: Renderer, tmp_path: Path) -> None:
    assert write_questions(0, PAIRS, renderer, max_length=64, folder=tmp_path) == {}
    assert not list(tmp_path.iterdir())
