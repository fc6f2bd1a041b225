"""Whether a YAML text is plain data of a sane size: told by its events, before it is built."""

import re
from dataclasses import dataclass

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    Event,
    ScalarEvent,
)

DEEPEST = 20
MOST_VALUES = 10_000
"""Of a file whose aliases are written out."""

_LONG_NUMBER = re.compile(r"[-+]?(\d[\d_]{19,}|0[xob][\da-fA-F_]{15,})")
"""Beyond 64 bits; Python's own have no end, and cannot even be shown beyond 4300 digits."""


class NotPlain(MarkedYAMLError):
    """YAML that could be read, and must not be."""


@dataclass(eq=False, slots=True)
class _Extent:
    """Of a value with all that it holds."""

    values: int = 1
    depth: int = 1


def check_plain(text: str) -> None:
    """Refuse what could run code, or turn a few lines into more than a machine can hold.

    Raises:
        NotPlain: A tag, a value that holds itself, too many values, too deep or too long ones.
        YAMLError: It is no YAML.
    """
    opened = [_Extent()]
    anchored: dict[str, _Extent] = {}
    for event in YAML(typ="safe", pure=True).parse(text):
        if isinstance(event, CollectionEndEvent):
            value = opened.pop()
        elif isinstance(event, AliasEvent):
            value = anchored.get(event.anchor, _Extent())  # an undefined one is told when built
            if value in opened:
                raise _refused(event, f"*{event.anchor} would contain itself; remove it")
        elif isinstance(event, ScalarEvent | CollectionStartEvent):
            _check_node(event)
            value = _Extent()
            if event.anchor is not None:
                anchored[event.anchor] = value
            if isinstance(event, CollectionStartEvent):
                opened.append(value)
                if len(opened) > DEEPEST:
                    raise _refused(event, f"nested more than {DEEPEST} levels deep")
                continue
        else:
            continue
        holder = opened[-1]
        holder.values += value.values
        holder.depth = max(holder.depth, value.depth + 1)
        if len(opened) + value.depth > DEEPEST + 1:
            raise _refused(event, f"nested more than {DEEPEST} levels deep")
        if holder.values > MOST_VALUES:
            words = f"more than {MOST_VALUES:,} values once aliases are expanded; write fewer"
            raise _refused(event, words)


def _check_node(event: ScalarEvent | CollectionStartEvent) -> None:
    if event.tag is not None:
        words = f"a tag ({event.tag[:60]}) is not allowed, since tags can name code; remove it"
        raise _refused(event, words)
    if not isinstance(event, ScalarEvent):
        return
    if event.style is None and _LONG_NUMBER.fullmatch(event.value):
        raise _refused(event, "a number above 64 bits; write a smaller one")
    if any("\ud800" <= character <= "\udfff" for character in event.value):
        raise _refused(event, "half of a character (a lone surrogate); write the whole one")


def _refused(event: Event, words: str) -> NotPlain:
    return NotPlain(problem=words, problem_mark=event.start_mark)
