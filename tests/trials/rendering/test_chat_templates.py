"""Chat templates by name, and our own ChatML."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tests import tiny
from trials.rendering import chat_templates

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}


def rendered(messages: list[dict[str, Any]], text: str = "", **given: Any) -> str:
    tokenizer = tiny.make_tokenizer()
    tokenizer.chat_template = text or chat_templates.CHATML_TEXT
    return str(tokenizer.apply_chat_template(messages, tokenize=False, **given))


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def test_chatml_ends_each_turn_with_the_end_of_sequence() -> None:
    turns = [turn("system", "Be brief."), turn("user", "Hi"), turn("assistant", "Yes?")]
    assert rendered(turns) == (
        "<|im_start|>system\nBe brief.</s>\n<|im_start|>user\nHi</s>\n"
        "<|im_start|>assistant\nYes?</s>\n"
    )
    prompt = rendered(turns[:2], add_generation_prompt=True)
    assert prompt == rendered(turns)[: len(prompt)]
    assert prompt.endswith("<|im_start|>assistant\n")


def test_chatml_drops_no_tool_no_call_and_no_reasoning() -> None:
    turns = [
        turn("system", "Be brief."),
        turn("user", "1 and 2?"),
        turn("assistant", "", reasoning_content="Easy.", tool_calls=[CALL, CALL]),
        turn("tool", "3"),
        turn("assistant", "3"),
    ]
    text = rendered(turns, tools=[TOOL])
    system, _, rest = text.partition("</s>\n")
    assert system.startswith("<|im_start|>system\nBe brief.\n\n")
    assert system.endswith('\n{"type": "function", "function": {"name": "add", "parameters": {}}}')
    call = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    assert rest == (
        "<|im_start|>user\n1 and 2?</s>\n"
        f"<|im_start|>assistant\n<think>\nEasy.\n</think>\n\n{call}\n{call}</s>\n"
        "<|im_start|>tool\n3</s>\n<|im_start|>assistant\n3</s>\n"
    )


def test_chatml_needs_no_system_turn_before_its_tools() -> None:
    text = rendered([turn("user", "1?"), turn("assistant", "1")], tools=[TOOL])
    assert text.count("<|im_start|>system\n") == 1
    assert "<|im_start|>user\n1?</s>\n" in text


def test_trls_templates_have_names_and_texts() -> None:
    names = chat_templates.names()
    assert names[0] == "chatml" and {"qwen3", "qwen3_training", "llama3"} <= set(names)
    for name in names:
        assert chat_templates.syntax_error(chat_templates.named(name)) is None


def test_trl_is_not_imported_for_a_name() -> None:
    code = (
        "import sys; from trials.rendering import chat_templates as c; c.named('qwen3'); c.names();"
        "print([m for m in ('trl', 'torch', 'transformers', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{% generation %}{{ x }}{% endgeneration %}{% for x in y %}{% break %}{% endfor %}", None),
        ("one\n{% if x %}", "line 2: "),
        ("{{ x", "line 1: "),
    ],
)
def test_a_syntax_error_is_told_with_its_line(text: str, error: str | None) -> None:
    found = chat_templates.syntax_error(text)
    assert found is None if error is None else found is not None and found.startswith(error)


def test_a_template_reads_what_it_is_given_and_not_what_it_sets() -> None:
    text = "{% set n = namespace(a=1) %}{% for m in messages %}{{ m.x if thinking }}{% endfor %}"
    assert chat_templates.variables_of(text) == {"messages", "thinking"}


def test_todays_date_is_the_studys() -> None:
    text = "{{ strftime_now('%d %b %Y') }} {{ thinking }}"
    given = chat_templates.context({"thinking": False}, "2026-01-02")
    assert rendered([turn("user", "Hi")], text, **given) == "02 Jan 2026 False"
