"""Rows as the model reads them: what is rendered, what carries loss, token by token."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from trials.data.conversation import Example, Message
from trials.data.tokens import TokenSplit
from trials.rendering import renderer as rendering
from trials.rendering.renderer import LossOn, Renderer, RowCounts
from trials.rendering.spans import Rendered, Span

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
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def with_template(tokenizer: Any, template: str) -> Any:
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


def render(example: Example, tokenizer: Any, *, chat: bool) -> Rendered:
    return Renderer(tokenizer, chat=chat, loss_on="completion").render(example)


def stretches(found: Rendered) -> list[tuple[str, bool]]:
    """The whole text, cut where the loss begins and ends."""
    place, cut = 0, []
    for span in found.spans:
        cut += [(found.text[place : span.start], False), (found.text[span.start : span.stop], True)]
        place = span.stop
    return [each for each in [*cut, (found.text[place:], False)] if each[0]]


def tokenized(
    rows: Sequence[Example], tokenizer: Any, *, chat: bool, loss_on: LossOn = "completion"
) -> tuple[TokenSplit, RowCounts]:
    return Renderer(tokenizer, chat=chat, loss_on=loss_on).tokenized(rows)


def turns(example: Example) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in example.conversation()]


def test_a_prompt_becomes_a_user_turn_of_the_chat_template(built_in: Any) -> None:
    assert stretches(render(PAIR, built_in, chat=True)) == [
        (f"{SYSTEM}<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n", False),
        ("4<|im_end|>", True),
        ("\n", False),
    ]


def test_without_chat_the_completion_follows_the_prompt_and_is_closed(built_in: Any) -> None:
    found = render(PAIR, built_in, chat=False)
    assert stretches(found) == [("2+2?", False), ("4<|im_end|>", True)]


@pytest.mark.parametrize("chat", [True, False])
def test_a_text_is_supervised_whole(built_in: Any, chat: bool) -> None:
    found = render(TEXT, built_in, chat=chat)
    assert stretches(found) == [("Once upon a time<|im_end|>", True)]


def test_a_text_with_its_own_end_gets_no_second(built_in: Any) -> None:
    ended = Example(None, None, None, "Once upon a time<|im_end|>", PLACE)
    assert render(ended, built_in, chat=False).text == "Once upon a time<|im_end|>"
    pair = Example(None, "2+2?", "4<|im_end|>", None, PLACE)
    assert render(pair, built_in, chat=False).text == "2+2?4<|im_end|>"


def test_every_assistant_turn_of_a_conversation_is_supervised(built_in: Any) -> None:
    found = stretches(render(TALK, built_in, chat=True))
    assert [text for text, learnt in found if learnt] == ["4<|im_end|>", "6<|im_end|>"]


@pytest.mark.parametrize("example", [PAIR, TALK])
def test_the_text_is_that_of_the_chat_template(built_in: Any, example: Example) -> None:
    whole = built_in.apply_chat_template(turns(example), tokenize=False)
    assert render(example, built_in, chat=True).text == whole


@pytest.mark.parametrize("example", [PAIR, TALK])
def test_the_tokens_and_the_loss_are_those_of_transformers(built_in: Any, example: Example) -> None:
    tokenizer = with_template(built_in, CHATML)
    split, counts = tokenized([example], tokenizer, chat=True)
    whole = tokenizer.apply_chat_template(
        turns(example), return_dict=True, return_assistant_tokens_mask=True
    )
    assert split.ids.tolist() == whole["input_ids"]
    assert split.supervised.tolist() == [bool(each) for each in whole["assistant_masks"]]
    assert counts.turns == sum(turn["role"] == "assistant" for turn in turns(example))


@pytest.mark.parametrize("example", [PAIR, TALK])
def test_loss_on_all_supervises_every_token(built_in: Any, example: Example) -> None:
    split, _ = tokenized([example], built_in, chat=True, loss_on="all")
    plain, _ = tokenized([example], built_in, chat=True)
    assert split.ids.tolist() == plain.ids.tolist()
    assert split.supervised.all()
    assert not plain.supervised.all()


def test_a_template_that_rewrites_earlier_turns_supervises_them_as_it_writes_them(
    built_in: Any,
) -> None:
    shortens = with_template(
        built_in,
        "{% for m in messages %}<{{ m.role }}>"
        "{{ m.content if loop.last or m.role == 'user' else '…' }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}",
    )
    assert stretches(render(TALK, shortens, chat=True)) == [
        ("<user>2+2?<|im_end|><assistant>", False),
        ("…<|im_end|>", True),
        ("<user>And 3+3?<|im_end|><assistant>", False),
        ("6<|im_end|>", True),
    ]


def test_a_turn_is_learnt_from_where_it_departs_from_its_prompt(built_in: Any) -> None:
    """A prompt of its own that finished turns do not have is none of a turn's."""
    opens = with_template(
        built_in,
        "{% for m in messages %}[{{ m.content }}]{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}",
    )
    assert stretches(render(PAIR, opens, chat=True)) == [("[2+2?]", False), ("[4]", True)]


@pytest.mark.parametrize("chat", [True, False])
def test_the_tokens_say_what_was_rendered(built_in: Any, chat: bool) -> None:
    split, _ = tokenized([PAIR], built_in, chat=chat)
    assert built_in.decode(split.ids) == render(PAIR, built_in, chat=chat).text


def one_by_one(rows: Sequence[Example], tokenizer: Any, chat: bool) -> list[list[int]]:
    """Token ids of each row."""
    return [
        tokenizer(render(example, tokenizer, chat=chat).text, add_special_tokens=False).input_ids
        for example in rows
    ]


@pytest.mark.parametrize("chat", [True, False])
def test_chunks_of_rows_give_the_tokens_of_each_row_alone(
    built_in: Any, chat: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "CHUNK_ROWS", 4)
    pairs = [Example(None, f"{n}?" * (n % 3), f"{n} and  {n}", None, PLACE) for n in range(6)]
    rows = [PAIR, TALK, TEXT, *pairs]
    split, counts = tokenized(rows, built_in, chat=chat)
    ends = split.offsets[1:]
    in_rows = [
        split.ids[end - n : end].tolist() for end, n in zip(ends, split.lengths, strict=True)
    ]
    assert in_rows == one_by_one(rows, built_in, chat)
    assert counts.split == 0


def test_rows_that_the_template_refuses_are_counted_by_kind(built_in: Any) -> None:
    strict = with_template(
        built_in,
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        + CHATML,
    )
    opened = [
        Example(
            (Message("system", "Be brief."), *TALK.conversation()), None, None, None, f"row {n}"
        )
        for n in range(7)
    ]
    split, counts = tokenized([PAIR, *opened, TALK], strict, chat=True)
    places = [f"row {n}" for n in range(5)]
    [(reason, seen)] = counts.refused.items()
    assert reason.startswith("the chat template rejects the conversation: no system; without its")
    assert seen == [7, *places]
    assert counts.refused_rows == [*range(1, 8)]
    assert len(split.lengths) == 2


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
        (Example(None, "<|im_start|>2+2?", "4", None, PLACE), False, False),  # it has one
    ],
)
def test_the_beginning_of_sequence_opens_a_row_outside_a_chat_template(
    built_in: Any, example: Example, chat: bool, is_opened: bool
) -> None:
    plain, _ = tokenized([example], built_in, chat=chat)
    split, _ = tokenized([example], opening(built_in), chat=chat)
    added = [built_in.bos_token_id] if is_opened else []
    assert split.ids.tolist() == added + plain.ids.tolist()
    assert split.supervised.tolist() == [False] * len(added) + plain.supervised.tolist()


@pytest.mark.parametrize("example", [PAIR, TALK])
def test_the_prompt_is_what_inference_is_given(built_in: Any, example: Example) -> None:
    renderer = Renderer(built_in, chat=True, loss_on="completion")
    given = built_in.apply_chat_template(
        turns(example)[:-1], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    assert renderer.prompt(example) == given
    split, _ = renderer.tokenized([example])
    assert split.ids[: len(given)].tolist() == given


def test_counts_of_two_splits_add_up() -> None:
    one = RowCounts(turns=1, parts={"tools": [1, 0, 0]}, refused={"a": [1, "row 1"]})
    other = RowCounts(
        turns=2, split=1, parts={"tools": [2, 1, 9], "reasoning": [1, 1, 3]},
        refused={"a": [5, *(f"eval {n}" for n in range(5))]},
    )  # fmt: skip
    both = one.plus(other)
    assert (both.turns, both.split) == (3, 1)
    assert both.parts == {"tools": [3, 1, 9], "reasoning": [1, 1, 3]}
    assert both.refused == {"a": [6, "row 1", "eval 0", "eval 1", "eval 2", "eval 3"]}


def test_a_pair_without_chat_is_learnt_from_its_completion(built_in: Any) -> None:
    assert render(PAIR, built_in, chat=False).spans == [Span(4, 4 + len("4<|im_end|>"))]
