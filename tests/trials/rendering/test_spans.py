"""What is learnt of each turn, under templates that have one trait of real models' each.

Right is written down by hand: from where a turn departs from its prompt to its end of turn.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from trials.data.conversation import Example, Message
from trials.rendering.chat import RowRefused
from trials.rendering.renderer import Renderer, RowCounts

OPEN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
EACH = "{% for m in messages %}"
PLAIN = f"{EACH}{TURN}{{% endfor %}}{OPEN}"
ANSWER = "{{ m.content.split('</think>')[-1].lstrip() }}"
TEMPLATES = {
    "plain": PLAIN,
    "think-last": EACH + "{% if m.role == 'assistant' and loop.last %}<|im_start|>assistant\n"
    "{% if '</think>' not in m.content %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}"
    "<|im_end|>\n{% elif m.role == 'assistant' %}<|im_start|>assistant\n" + ANSWER + "<|im_end|>\n"
    "{% else %}" + TURN + "{% endif %}{% endfor %}" + OPEN,
    "eos-at-end": EACH + "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
    "prompt-opens-think": EACH + "<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}" + ANSWER + "{% else %}{{ m.content }}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
    "always-prompt": EACH + TURN + "{% endfor %}{{ '<|im_start|>assistant\n' }}",
    "no-end": EACH + "<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "system-in-last": "{% if messages[0].role == 'system' %}{% set s = messages[0].content %}"
    "{% set ms = messages[1:] %}{% else %}{% set ms = messages %}{% endif %}{{ bos_token }}"
    "{% for m in ms %}{% if m.role == 'user' %}[INST]{% if loop.last and s is defined %}{{ s }}\n\n"
    "{% endif %}{{ m.content }}[/INST]{% else %}{{ m.content }}{{ eos_token }}{% endif %}"
    "{% endfor %}",
    "drops-thinking": EACH + "<|im_start|>{{ m.role }}\n" + ANSWER + "<|im_end|>\n"
    "{% endfor %}" + OPEN,
    "needs-tools": "{% for t in tools %}{{ t }}{% endfor %}" + PLAIN,
    "strict": EACH + "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('user and assistant must take turns') }}{% endif %}"
    + TURN + "{% endfor %}" + OPEN,
    "plain-bos": "{{ bos_token }}" + PLAIN,
    "needs-system": "{% if messages[0].role != 'system' %}{{ raise_exception('no system turn') }}"
    "{% endif %}" + PLAIN,
    "no-prompt": EACH + "<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}",
    "line-between": EACH + "<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}"
    "{% if m.role == 'user' or not loop.last %}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "no-marks": EACH + "{{ m.role.title() }}: {{ m.content }}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}",
    "trims": EACH + "<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n"
    "{% endfor %}" + OPEN,
}  # fmt: skip
MARKS = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "[INST]", "[/INST]"]
EOS = "<|endoftext|>"


@pytest.fixture(scope="module")
def tokenizer(built_in: Any) -> Any:
    """The built-in one with the templates' marks, whose end of sequence ends no turn of ChatML."""
    found = copy.deepcopy(built_in)
    found.add_tokens(MARKS, special_tokens=True)
    found.bos_token, found.eos_token = "<repo_name>", EOS
    return found


def user(text: str) -> Message:
    return Message("user", text)


def answer(text: str, **beside: Any) -> Message:
    return Message("assistant", text, **beside)


def talk(*messages: Message, tools: str | None = None) -> Example:
    return Example(messages, None, None, None, "row 1", tools)


ASKED, SYSTEM = user("What is 2+2?"), Message("system", "Be brief.")
PAIR = talk(ASKED, answer("It is 4."))
OPENED = talk(SYSTEM, ASKED, answer("It is 4."))
TURNS = talk(user("q1"), answer("One."), user("q2"), answer("Two."), user("q3"), answer("Three."))
FIRST = talk(answer("Hello."), user("q"), answer("Yes."))
TWICE = talk(user("q"), answer("One."), answer("Two."), user("r"), answer("Three."))
WEIGHTS = talk(user("q"), answer("Bad.", learnt=False), user("r"), answer("Good."))
THOUGHTS = talk(user("q"), answer("<think>\nhm\n</think>\n\nYes."), user("r"), answer("No."))


def renderer(tokenizer: Any, template: str) -> Renderer:
    changed = copy.copy(tokenizer)
    changed.chat_template = TEMPLATES.get(template, template)
    return Renderer(changed, chat=True, loss_on="completion")


def learnt(tokenizer: Any, template: str, row: Example) -> list[str]:
    """The text of each learnt turn, by its tokens; they are those of the whole text."""
    using = renderer(tokenizer, template)
    found = using.render(row)
    split, counts = using.tokenized([row])
    whole = tokenizer(found.text, add_special_tokens=False).input_ids
    assert counts.split or split.ids.tolist() == whole
    assert tokenizer.decode(split.ids) == found.text
    texts = [found.text[span.start : span.stop] for span in found.spans]
    assert tokenizer.decode(split.ids[split.supervised]) == "".join(texts)
    return texts


CHATML_ROWS = [
    (PAIR, ["It is 4.<|im_end|>"]),
    (OPENED, ["It is 4.<|im_end|>"]),
    (TURNS, ["One.<|im_end|>", "Two.<|im_end|>", "Three.<|im_end|>"]),
    (FIRST, ["Hello.<|im_end|>", "Yes.<|im_end|>"]),
    (TWICE, ["One.<|im_end|>", "Two.<|im_end|>", "Three.<|im_end|>"]),
    (WEIGHTS, ["Good.<|im_end|>"]),
]


@pytest.mark.parametrize(
    "template",
    ["plain", "prompt-opens-think", "always-prompt", "drops-thinking", "plain-bos", "trims"],
)
@pytest.mark.parametrize(("row", "right"), CHATML_ROWS)
def test_a_turn_is_learnt_up_to_its_end(
    tokenizer: Any, template: str, row: Example, right: list[str]
) -> None:
    assert learnt(tokenizer, template, row) == right


EMPTY = "<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("row", "right"),
    [
        (PAIR, [f"{EMPTY}It is 4.<|im_end|>"]),
        (OPENED, [f"{EMPTY}It is 4.<|im_end|>"]),
        (TURNS, ["One.<|im_end|>", "Two.<|im_end|>", f"{EMPTY}Three.<|im_end|>"]),
        (FIRST, ["Hello.<|im_end|>", f"{EMPTY}Yes.<|im_end|>"]),
        (TWICE, ["One.<|im_end|>", "Two.<|im_end|>", f"{EMPTY}Three.<|im_end|>"]),
        (WEIGHTS, [f"{EMPTY}Good.<|im_end|>"]),
        (THOUGHTS, ["Yes.<|im_end|>", f"{EMPTY}No.<|im_end|>"]),
    ],
)
def test_the_thoughts_that_only_a_last_turn_has(
    tokenizer: Any, row: Example, right: list[str]
) -> None:
    assert learnt(tokenizer, "think-last", row) == right


@pytest.mark.parametrize("template", ["drops-thinking", "prompt-opens-think"])
def test_a_thought_that_is_left_out_is_not_learnt(tokenizer: Any, template: str) -> None:
    assert learnt(tokenizer, template, THOUGHTS) == ["Yes.<|im_end|>", "No.<|im_end|>"]


def test_a_thought_that_is_there_is_learnt(tokenizer: Any) -> None:
    right = ["<think>\nhm\n</think>\n\nYes.<|im_end|>", "No.<|im_end|>"]
    assert learnt(tokenizer, "plain", THOUGHTS) == right


def test_an_end_of_sequence_behind_the_conversation_is_not_learnt(tokenizer: Any) -> None:
    assert learnt(tokenizer, "eos-at-end", PAIR) == ["It is 4.<|end|>"]
    assert learnt(tokenizer, "eos-at-end", TURNS) == ["One.<|end|>", "Two.<|end|>", "Three.<|end|>"]


def test_the_next_role_ends_a_turn_that_nothing_else_ends(tokenizer: Any) -> None:
    assert learnt(tokenizer, "no-end", PAIR) == ["It is 4.<|user|>"]
    assert learnt(tokenizer, "no-end", TURNS) == ["One.<|user|>", "Two.<|user|>", "Three.<|user|>"]
    assert learnt(tokenizer, "no-end", TWICE)[1:] == ["Two.<|user|>", "Three.<|user|>"]
    assert renderer(tokenizer, "no-end").render(PAIR).closed


def test_the_end_of_sequence_ends_a_last_turn_where_the_next_role_is_plain_text(
    tokenizer: Any,
) -> None:
    assert learnt(tokenizer, "no-marks", TURNS) == [
        " One.\nUser:", " Two.\nUser:", f" Three.{EOS}"
    ]  # fmt: skip


def test_an_answer_that_ends_with_white_space_keeps_it_where_it_is_closed(tokenizer: Any) -> None:
    assert learnt(tokenizer, "no-end", talk(ASKED, answer("It is 4. \n"))) == [
        "It is 4. \n<|user|>"
    ]


def test_a_turn_with_no_content_and_no_end_is_refused(tokenizer: Any) -> None:
    with pytest.raises(RowRefused, match="turn 2: the template does not show where it ends"):
        renderer(tokenizer, "no-end").render(talk(user("q"), answer(""), user("r"), answer("s")))


@pytest.mark.parametrize(
    ("row", "right"),
    [
        (PAIR, [f"It is 4.{EOS}"]),
        (OPENED, [f"It is 4.{EOS}"]),
        (TURNS, [f"One.{EOS}", f"Two.{EOS}", f"Three.{EOS}"]),
        (TWICE, [f"One.{EOS}", f"Two.{EOS}", f"Three.{EOS}"]),
        (WEIGHTS, [f"Good.{EOS}"]),
    ],
)
def test_a_system_text_in_the_last_message(tokenizer: Any, row: Example, right: list[str]) -> None:
    assert learnt(tokenizer, "system-in-last", row) == right


@pytest.mark.parametrize("template", ["system-in-last", "no-prompt"])
def test_an_answer_that_comes_first_is_refused_where_no_mark_opens_it(
    tokenizer: Any, template: str
) -> None:
    with pytest.raises(RowRefused, match="turn 1: the template does not show where it begins"):
        renderer(tokenizer, template).render(FIRST)


@pytest.mark.parametrize(("row", "n"), [(FIRST, 0), (TWICE, 1), (OPENED, 2)])
def test_roles_that_must_alternate(tokenizer: Any, row: Example, n: int) -> None:
    assert learnt(tokenizer, "strict", TURNS) == [
        "One.<|im_end|>", "Two.<|im_end|>", "Three.<|im_end|>"
    ]  # fmt: skip
    with pytest.raises(RowRefused, match="rejects the conversation: user and assistant must"):
        renderer(tokenizer, "strict").render(row)


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}


def test_a_template_that_needs_tools_is_probed_with_tools(tokenizer: Any) -> None:
    """Its end of turn would else be taken for the end of sequence."""
    using = renderer(tokenizer, "needs-tools")
    assert using.template.marks.end == "<|im_end|>"
    tools = json.dumps([TOOL])
    opened = talk(*TURNS.conversation(), tools=tools)
    assert learnt(tokenizer, "needs-tools", opened) == CHATML_ROWS[2][1]
    assert learnt(tokenizer, "needs-tools", TURNS) == CHATML_ROWS[2][1]  # none: an empty list


def test_a_template_that_needs_a_system_turn_is_probed_with_one(tokenizer: Any) -> None:
    assert renderer(tokenizer, "needs-system").template.marks.end == "<|im_end|>"
    opened = talk(SYSTEM, *TWICE.conversation())
    assert learnt(tokenizer, "needs-system", opened) == CHATML_ROWS[4][1]


def test_what_opens_a_turn_is_no_part_of_it_where_the_prompt_has_it_elsewhere(
    tokenizer: Any,
) -> None:
    """OLMo 2 writes a line break behind all turns but the last."""
    right = [f"One.{EOS}", f"Two.{EOS}", f"Three.{EOS}"]
    assert learnt(tokenizer, "line-between", TWICE) == right


def test_a_template_without_a_prompt_has_its_marks_learnt(tokenizer: Any) -> None:
    """A model is asked with nothing behind the question: it must write them."""
    assert learnt(tokenizer, "no-prompt", PAIR) == ["<|assistant|>It is 4.<|end|>"]


@pytest.mark.parametrize(
    "template", ["plain", "eos-at-end", "no-end", "always-prompt", "plain-bos", "line-between"]
)
def test_before_a_turn_stands_what_inference_has(tokenizer: Any, template: str) -> None:
    using = renderer(tokenizer, template)
    split, _ = using.tokenized([TURNS])
    ids, mask = split.ids.tolist(), split.supervised.tolist()
    starts = [n for n in range(1, len(ids)) if mask[n] and not mask[n - 1]]
    turns = [message.for_template() for message in TURNS.conversation()]
    for n, start in zip((1, 3, 5), starts, strict=True):
        given = using.tokenizer.apply_chat_template(
            turns[:n], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        assert ids[:start] == given


CALLS = (
    EACH + "<|im_start|>{{ m.role }}\n{{ m.content or '' }}{% for c in m.tool_calls or [] %}"
    "<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n{% endfor %}" + OPEN
)
CALL = [{"type": "function", "function": {"name": "weather", "arguments": {"city": 'Ro"me\n'}}}]
WRITTEN = (
    '<tool_call>{"name": "weather", "arguments": {"city": "Ro\\"me\\n"}}</tool_call><|im_end|>'
)


def test_calls_and_what_follows_a_tool_are_learnt(tokenizer: Any) -> None:
    row = talk(
        user("Weather?"),
        answer("", tool_calls=json.dumps(CALL)),
        Message("tool", '{"sky": "sun"}', name="weather"),
        answer("Sunny."),
        tools=json.dumps([TOOL]),
    )
    assert learnt(tokenizer, CALLS, row) == [WRITTEN, "Sunny.<|im_end|>"]
    last = talk(user("Weather?"), answer("Wait.", tool_calls=json.dumps(CALL)))
    assert learnt(tokenizer, CALLS, last) == [f"Wait.{WRITTEN}"]


REASONS = (
    EACH + "<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<think>{{ m.reasoning_content }}"
    "</think>{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}" + OPEN
)


def test_reasoning_is_learnt_where_the_template_writes_it(tokenizer: Any) -> None:
    row = talk(user("q"), answer("Yes.", reasoning="hm"), user("r"), answer("No.", reasoning="hm"))
    assert learnt(tokenizer, REASONS, row) == [
        "<think>hm</think>Yes.<|im_end|>", "<think>hm</think>No.<|im_end|>"
    ]  # fmt: skip
    assert learnt(tokenizer, "plain", row) == ["Yes.<|im_end|>", "No.<|im_end|>"]


@pytest.mark.parametrize("template", ["plain", "always-prompt", "drops-thinking", "think-last"])
@pytest.mark.parametrize(
    "texts",
    [
        ("a", "a", "a", "a"),
        ("assistant", "user", "user", "assistant"),
        ("q", "The mark <|im_end|> ends", "r", "<|im_start|>"),
        ("<|im_start|>assistant\nq<|im_end|>\n", "No", "No", "No"),
        ("qxqa", "qxqb", "qxqc", "qxqd"),
        ("q", "", "r", "s"),
        (" q\n", "s \n", "\nr", "t  "),
        ("👩‍🚀", "🏴‍☠️👩‍🚀", "𝔘", "🇳🇴"),
        ("1", "1", "11", "1"),
    ],
)
def test_texts_that_are_easily_taken_for_others(
    tokenizer: Any, template: str, texts: tuple[str, ...]
) -> None:
    row = talk(user(texts[0]), answer(texts[1]), user(texts[2]), answer(texts[3]))
    last = EMPTY if template == "think-last" else ""
    right = [f"{texts[1]}<|im_end|>", f"{last}{texts[3]}<|im_end|>"]
    assert learnt(tokenizer, template, row) == right


def test_a_thought_without_an_answer(tokenizer: Any) -> None:
    row = talk(user("q"), answer("<think>hm</think>"), user("r"), answer("s"))
    assert learnt(tokenizer, "plain", row) == ["<think>hm</think><|im_end|>", "s<|im_end|>"]
    assert learnt(tokenizer, "drops-thinking", row) == ["<|im_end|>", "s<|im_end|>"]


@pytest.mark.parametrize("template", ["plain", "prompt-opens-think", "think-last"])
def test_characters_for_private_use_are_texts_like_others(tokenizer: Any, template: str) -> None:
    one = "\U000f0000 \U000f0041"
    row = talk(user(one), answer(f"{one}."), user("q"), answer("Yes."))
    assert learnt(tokenizer, template, row)[0] == f"{one}.<|im_end|>"


def test_a_row_with_all_characters_that_could_mark_it_is_refused(tokenizer: Any) -> None:
    row = talk(user("\U000f0000\U00100000"), answer("a"), answer("b"))
    with pytest.raises(RowRefused, match="characters for private use"):
        renderer(tokenizer, "prompt-opens-think").render(row)


@pytest.mark.parametrize("template", ["plain", "think-last", "no-end"])
def test_a_long_conversation(tokenizer: Any, template: str) -> None:
    turns = [m for n in range(100) for m in (user(f"{n}?"), answer(f"{n}."))]
    found = learnt(tokenizer, template, talk(*turns))
    end = "<|user|>" if template == "no-end" else "<|im_end|>"
    last = EMPTY if template == "think-last" else ""
    assert found == [*(f"{n}.{end}" for n in range(99)), f"{last}99.{end}"]


def test_turns_whose_history_is_rendered_otherwise_are_counted(tokenizer: Any) -> None:
    def counts(template: str, row: Example) -> RowCounts:
        return renderer(tokenizer, template).tokenized([row])[1]

    assert counts("plain", TURNS).rewritten == 0
    moved = talk(SYSTEM, *TURNS.conversation())
    assert counts("system-in-last", moved).rewritten == 3
    assert counts("think-last", TURNS).rewritten == 0


RETURNS = (
    EACH + "<|start|>{{ m.role }}<|message|>{{ m.content }}{% if loop.last and "
    "m.role == 'assistant' %}<|return|>{% else %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|message|>{% endif %}"
)
"""Ends the last turn otherwise, as gpt-oss does."""


def test_marks_that_are_no_tokens_end_turns_as_exactly(built_in: Any) -> None:
    """A token across the end of a turn is cut there: nothing of the next header is learnt."""
    using = renderer(built_in, RETURNS)
    split, counts = using.tokenized([TURNS])
    assert counts.split == 1 and counts.closed == 0
    right = ["One.<|end|>", "Two.<|end|>", "Three.<|return|>"]
    found = using.render(TURNS)
    assert [found.text[span.start : span.stop] for span in found.spans] == right
    assert built_in.decode(split.ids[split.supervised]) == "".join(right)
    assert built_in.decode(split.ids) == found.text


def test_a_call_ends_at_its_own_mark_though_it_is_no_token(built_in: Any) -> None:
    template = (
        EACH + "{% if m.role == 'tool' %}<|observation|>\n<answer>\n{{ m.content }}\n</answer>"
        "{% else %}<|{{ m.role }}|>\n{{ m.content }}{% for c in m.tool_calls or [] %}"
        "<call>{{ c.function.name }} {{ c.function.arguments.at }}</call>{% endfor %}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}
    row = talk(
        user("Colour?"),
        answer("", tool_calls=json.dumps([call])),
        Message("tool", "grey"),
        answer("Grey."),
    )
    found = renderer(built_in, template).render(row)
    first, last = (found.text[span.start : span.stop] for span in found.spans)
    assert first == "<call>look sky</call><|observation|>"
    assert last.startswith("Grey.") and found.closed


@pytest.mark.parametrize("end", ["<|im_end|>", EOS, f" {EOS}\n"])
def test_an_answer_that_brings_its_end_along_gets_no_second(tokenizer: Any, end: str) -> None:
    row = talk(ASKED, answer(f"It is 4.{end}"))
    assert learnt(tokenizer, "plain", row) == ["It is 4.<|im_end|>"]


def test_a_pair_that_brings_its_end_along_gets_no_second(tokenizer: Any) -> None:
    pair = Example(None, "2+2=", f"4{EOS}\n", None, "row 1")
    plain = Renderer(tokenizer, chat=False, loss_on="completion")
    assert plain.render(pair).text == f"2+2=4{EOS}\n"
