"""The chat template that is asked for."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from tests import tiny
from trials.config import ConfigError
from trials.data.examples import Example, Message
from trials.preparation.template import give_template, is_chat, marks_in_words, see_used
from trials.rendering.chat_templates import CHATML_TEXT

TEXT = Example(None, None, None, "rain", "row 1")
PAIR = Example(None, "oslo :", " rain", None, "row 1")
TURNS = Example((Message("user", "oslo"), Message("assistant", "rain")), None, None, None, "row 1")


def test_an_argument_that_the_template_does_not_read_is_refused() -> None:
    text = "{% if enable_thinking %}{{ bos_token }}{% endif %}{{ messages }}"
    give_template(tiny.make_tokenizer(), text, {"enable_thinking": False})
    with pytest.raises(ConfigError, match="enable_thinkng: .* It reads: enable_thinking.") as told:
        give_template(tiny.make_tokenizer(), text, {"enable_thinkng": False, "messages": []})
    assert str(told.value).count("\n") == 1  # both at once
    assert "messages: is filled by the rows and cannot be given." in str(told.value)


def test_what_a_template_sets_itself_is_no_argument_to_offer() -> None:
    text = "{% for m in messages %}{% set said = m.content %}{% endfor %}{{ said }}{{ thinking }}"
    with pytest.raises(ConfigError, match=r"nothing: .* It reads: thinking\."):
        give_template(tiny.make_tokenizer(), text, {"nothing": 1})


def test_an_empty_template_is_refused_under_its_own_key() -> None:
    with pytest.raises(ConfigError, match="data.chat_template: must hold a Jinja template"):
        give_template(tiny.make_tokenizer(), " \n", {})


def test_a_tokenizers_own_template_is_asked_too() -> None:
    tokenizer = tiny.make_tokenizer()
    tokenizer.chat_template = "{{ messages }}"
    with pytest.raises(ConfigError, match="template_arguments.thinking: .* It takes none."):
        give_template(tokenizer, None, {"thinking": True})


@pytest.mark.parametrize("row", [PAIR, TURNS])
def test_a_base_model_is_offered_chatml_and_never_given_it(row: Example) -> None:
    tokenizer = tiny.make_tokenizer()
    asked = True if row is PAIR else None
    with pytest.raises(ConfigError, match="no chat template.*write `data.chat_template: chatml`"):
        is_chat([row], tokenizer, asked=asked, name="base")
    assert is_chat([PAIR], tokenizer, asked=None, name="base") is False
    give_template(tokenizer, CHATML_TEXT, {})
    assert is_chat([row], tokenizer, asked=asked, name="base") is True


@pytest.mark.parametrize(("row", "chat"), [(PAIR, False), (TEXT, True)])
def test_a_template_that_renders_no_row_is_refused(row: Example, chat: bool) -> None:
    with pytest.raises(ConfigError, match="data.chat_template: renders no row"):
        see_used({"chat_template": CHATML_TEXT, "template_arguments": {}}, [row], chat=chat)
    see_used({"chat_template": None, "template_arguments": {}}, [row], chat=chat)
    see_used({"chat_template": CHATML_TEXT}, [row, TURNS], chat=chat)


def with_bos(*, opens: bool) -> Any:
    tokenizer = tiny.make_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    if opens:
        special = [("<s>", tokenizer.bos_token_id)]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<s> $A", None, special)
    return tokenizer


@pytest.mark.parametrize("opens", [True, False])
def test_chatml_opens_a_row_as_the_tokenizer_opens_a_text(opens: bool) -> None:
    tokenizer = with_bos(opens=opens)
    give_template(tokenizer, CHATML_TEXT, {})
    turns = [{"role": "user", "content": "oslo"}]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    assert text == ("<s>" if opens else "") + "<|im_start|>user\noslo</s>\n"


def test_the_tokens_of_each_mark_are_told() -> None:
    words = marks_in_words(CHATML_TEXT, with_bos(opens=True))
    assert words.endswith("so many tokens: <|im_start|> 1, </s> 1.")
