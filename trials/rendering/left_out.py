"""What of a row a chat template leaves out: texts, thoughts, calls and tools."""

from __future__ import annotations

import json
from collections.abc import Iterator

from trials.data.conversation import Example, Message

CALLS = "names and arguments of calls"
REASONING = "reasoning"
"""The one kind that templates leave out on purpose."""

Piece = tuple[str, int, bool]
"""(kind, characters, whether it is in the rendering)"""


def pieces(example: Example, text: str) -> Iterator[Piece]:
    """Look for each part of a row in its rendering."""
    parts = list(_all_parts(example))
    there: list[str] = []
    # The longest first: a part must occur once more than in the longer ones that are there.
    lost = set()
    for index in sorted(range(len(parts)), key=lambda n: -len(parts[n][1])):
        part = parts[index][1]
        wanted = 1 + sum(other.count(part) for other in there)
        if text.count(part) >= wanted or text.count(_escaped(part)) >= wanted:
            there.append(part)
        else:
            lost.add(index)
    for index, (kind, part) in enumerate(parts):
        yield kind, len(part), index not in lost


def _all_parts(example: Example) -> Iterator[tuple[str, str]]:
    for message in example.conversation():
        yield from _parts(message)
        for call in json.loads(message.tool_calls) if message.tool_calls else ():
            function = call["function"]
            yield from (
                (CALLS, leaf) for leaf in _leaves([function["name"], function["arguments"]])
            )
    for tool in example.tool_list() or ():
        name = tool.get("function", tool).get("name") if isinstance(tool, dict) else None
        if name:
            yield "tools", str(name)


def _parts(message: Message) -> Iterator[tuple[str, str]]:
    content = message.content
    if message.role != "assistant":
        kind = "tool answers" if message.role == "tool" else f"{message.role} turns"
        yield from ((kind, part) for part in (content.strip(),) if part)
        return
    if "</think>" in content:
        thought, _, content = content.rpartition("</think>")
        yield from (
            (REASONING, part) for part in (thought.rpartition("<think>")[2].strip(),) if part
        )
    if part := content.strip():
        yield "assistant turns", part
    if message.reasoning and (part := message.reasoning.strip()):
        yield REASONING, part


def _escaped(part: str) -> str:
    """As it stands within JSON."""
    return json.dumps(part, ensure_ascii=False)[1:-1]


def _leaves(value: object) -> Iterator[str]:
    """The texts in a call's arguments; how numbers are written is the template's affair."""
    if isinstance(value, str):
        yield from (part for part in (value.strip(),) if part)
    elif isinstance(value, dict):
        for inside in value.values():
            yield from _leaves(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from _leaves(inside)
