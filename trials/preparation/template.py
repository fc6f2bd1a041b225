"""The chat template that is asked for: given to the tokenizer, and seen to be of use."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trials.config import ConfigError
from trials.data.examples import Example
from trials.rendering.chat_templates import CHATML_TEXT, sets, texts_of, variables_of
from trials.rendering.encoding import opening

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OURS = {"messages", "tools", "add_generation_prompt", "strftime_now", "raise_exception"}
"""Variables that rows, the study and transformers fill."""

_MARK = re.compile(r"<[|｜][^<>|｜\s]+[|｜]>|<(?:start|end)_of_turn>|\[/?[A-Z_]+\]")


def give_template(
    tokenizer: PreTrainedTokenizerBase, text: str | None, arguments: Mapping[str, Any]
) -> None:
    """Set the tokenizer's chat template, unless it keeps its own.

    Raises:
        ConfigError: The template does not read an argument, which would then do nothing.
    """
    if text is not None and not text.strip():
        raise ConfigError("data.chat_template: must hold a Jinja template, but the file is empty.")
    if text is not None:
        tokenizer.chat_template = _fitted(text, tokenizer)
    texts = texts_of(tokenizer) if arguments else []
    read = {name for one in texts for name in variables_of(one)}
    free = sorted(read - OURS - set(tokenizer.SPECIAL_TOKENS_ATTRIBUTES))
    shown = [name for name in free if not any(sets(text, name) for text in texts)]
    there = f"It reads: {', '.join(shown)}." if shown else "It takes none."
    rule = "the chat template reads no such variable, so it would have no effect."
    lines = [
        f"data.template_arguments.{name}: "
        + ("is filled by the rows and cannot be given." if name in OURS else f"{rule} {there}")
        for name in arguments
        if name not in free
    ]
    if texts and lines:
        raise ConfigError("\n".join(lines))


def _fitted(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Our ChatML opens a row as the tokenizer opens a text."""
    if text != CHATML_TEXT:
        return text
    return "{{- bos_token }}\n" + text if opening(tokenizer) else text


def is_chat(
    rows: Sequence[Example], tokenizer: PreTrainedTokenizerBase, *, asked: bool | None, name: str
) -> bool:
    """Whether prompts and completions become turns: as asked, else if the tokenizer can.

    Args:
        name: Of the base model, for the message.

    Raises:
        ConfigError: Turns are to be rendered, and there is no chat template.
    """
    chat = bool(tokenizer.chat_template) if asked is None else asked
    if (chat or any(row.messages for row in rows)) and not tokenizer.chat_template:
        raise ConfigError(
            f"data.chat: the tokenizer of {name} has no chat template. Choose an instruct model; "
            f"or write `data.chat_template: chatml`, another known template such as llama3, or a "
            f"Jinja file of your own; or give rows with prompt and completion and set data.chat to "
            f"false."
        )
    return chat


def see_used(given: Mapping[str, Any], rows: Sequence[Example], *, chat: bool) -> None:
    """See that what is set for the chat template renders a row.

    Raises:
        ConfigError: There is none.
    """
    if any(row.messages or (chat and row.text is None) for row in rows):
        return
    for key in (key for key, value in given.items() if value):
        raise ConfigError(
            f"data.{key}: renders no row, since data.chat is false or the rows are plain texts. "
            f"Remove it, or give rows with messages, or with prompt and completion."
        )


def marks_in_words(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Say how many tokens each mark of a template takes: none is added to the vocabulary."""
    marks = dict.fromkeys([*_MARK.findall(text), str(tokenizer.eos_token)])
    counts = (len(tokenizer(mark, add_special_tokens=False).input_ids) for mark in marks)
    told = ", ".join(f"{mark} {n}" for mark, n in zip(marks, counts, strict=True))
    return f"data.chat_template: no tokens are added. Each mark takes so many tokens: {told}."
