"""Chat templates by name, ChatML of our own, and what a template's text says before it renders."""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment
    from transformers import PreTrainedTokenizerBase

SUFFIX = ".jinja"
_FOLDER = "chat_templates"
CHATML = "chatml"
CHATML_TEXT = """\
{%- set opening = messages[0] %}
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if opening.role == 'system' %}
        {{- opening.content + '\\n\\n' }}
    {%- endif %}
    {{- 'A tool is called with <tool_call>{"name": ..., "arguments": {...}}</tool_call>. Tools:' }}
    {%- for tool in tools %}
        {{- '\\n' + (tool | tojson) }}
    {%- endfor %}
    {{- eos_token + '\\n' }}
{%- endif %}
{%- for message in (messages[1:] if tools and opening.role == 'system' else messages) %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.reasoning_content %}
        {{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}
    {%- endif %}
    {{- message.content or '' }}
    {%- for call in message.tool_calls or [] %}
        {{- '\\n' if message.content or not loop.first else '' }}
        {{- '<tool_call>{"name": ' + (call.function.name | tojson) + ', "arguments": ' }}
        {%- set given = call.function.arguments %}
        {{- (given if given is string else given | tojson) + '}</tool_call>' }}
    {%- endfor %}
    {{- eos_token + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
"""Turns end with the tokenizer's end of sequence, which a base model knows; `<|im_end|>` it may
never have seen."""


def names() -> list[str]:
    """Return the templates that can be named: ours, and those that lie in TRL's folder."""
    found = _trl_folder()
    return [CHATML, *(sorted(path.stem for path in found.glob(f"*{SUFFIX}")) if found else ())]


def named(name: str) -> str:
    """Return the text of one of `names`."""
    folder = _trl_folder()
    if name == CHATML or folder is None:
        return CHATML_TEXT
    return (folder / f"{name}{SUFFIX}").read_text(encoding="utf-8")


def _trl_folder() -> Path | None:
    spec = importlib.util.find_spec("trl")  # found, not imported: that would take seconds
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / _FOLDER


def syntax_error(text: str) -> str | None:
    """Say why a text is no Jinja template, with its line; None: it is one."""
    from jinja2 import TemplateSyntaxError

    try:
        _environment().parse(text)
    except TemplateSyntaxError as error:
        return f"line {error.lineno}: {error.message}"
    return None


@functools.cache
def _environment() -> Environment:
    """Jinja as transformers sets it up: with `{% generation %}`, `{% break %}`."""
    from jinja2 import Environment
    from jinja2.ext import Extension, loopcontrols

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 - as Jinja has it

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return Environment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])


def variables_of(text: str) -> set[str]:
    """Return the variables that a template reads, those of Jinja's own apart."""
    from jinja2 import meta

    environment = _environment()
    return meta.find_undeclared_variables(environment.parse(text)) - environment.globals.keys()


def sets(text: str, name: str) -> bool:
    """Whether a template sets a variable itself, as that of a loop."""
    from jinja2 import nodes

    names = _environment().parse(text).find_all(nodes.Name)
    return any(found.ctx == "store" and found.name == name for found in names)


def texts_of(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return its chat template; some have several, such as one for tools."""
    template = tokenizer.chat_template
    if not template:
        return []
    return list(template.values()) if isinstance(template, Mapping) else [template]


def writes_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether its chat template may write the date of today."""
    return any("strftime_now" in text for text in texts_of(tokenizer))


def given(arguments: Mapping[str, Any], date: str | None) -> str:
    """Return what a template is given beside the turns, as one text: it tells renderings apart."""
    return json.dumps([dict(arguments), date], sort_keys=True)


def context(arguments: Mapping[str, Any], date: str | None) -> dict[str, Any]:
    """Return what `apply_chat_template` is given beside the turns.

    Args:
        date: The study's, as `2026-11-29`: a template then writes it for today. None: it writes
            none.
    """
    if date is None:
        return dict(arguments)
    strftime: Callable[[str], str] = datetime.fromisoformat(date).strftime
    return {**arguments, "strftime_now": strftime}
