"""Turns of conversations, as people write them → messages."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from trials.data.bad_rows import BadRow
from trials.data.conversation import Message
from trials.data.table import found, quoted, text_of
from trials.data.tools import calls_of, parsed

_CALL = "a call"
"""ShareGPT's role for a turn of the assistant whose text is a call."""
_ROLES = {
    **dict.fromkeys(("system", "user", "assistant", "tool", "developer")),
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(
        ("gpt", "bot", "model", "chatgpt", "chatbot", "ai", "bing", "bard"), "assistant"
    ),
    **dict.fromkeys(("observation", "function", "ipython", "tool_response"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), _CALL),
}
ROLES = {said: role or said for said, role in _ROLES.items()}
ROLE_KEYS = ("role", "from", "speaker", "author", "sender")
_CONTENT_KEYS = ("content", "value", "text", "message", "parts")
_REASONING = ("reasoning_content", "thinking", "reasoning")
_WEIGHTS = ("weight", "train", "training", "train_on_turn", "loss")
SYSTEM = ("system", "developer")


@dataclass(slots=True)
class Turns:
    """Reads the turns of a table, and counts the keys that it leaves unread."""

    ignore: Collection[str]
    is_typed: bool
    """Whether an object has all keys of its column, null where it has none."""
    unread: Counter[str] = field(default_factory=Counter)
    """`messages[].date` → turns that have it."""
    ignored: set[str] = field(default_factory=set)

    def read(self, value: object, column: str) -> tuple[Message, ...]:
        """Return the turns of a list, of its JSON text, or of lists of roles and of contents."""
        turns = as_list(value)
        if turns is None:
            rule = f'`{column}` must be a list such as [{{"role": "user", "content": "…"}}, …]'
            raise BadRow(rule, found(value))
        return tuple([self._turn(turn, n, column) for n, turn in enumerate(turns, 1)])

    def history(self, value: object, column: str) -> tuple[Message, ...]:
        """Return earlier turns: a list of [question, answer], or of turns."""
        given = as_list(value)
        if given is None:
            raise BadRow(f"`{column}` must be a list of [question, answer]", found(value))
        if given and isinstance(given[0], dict):
            return self.read(given, column)
        turns = []
        for n, both in enumerate(given, 1):
            if not isinstance(both, list) or len(both) != 2:
                raise BadRow(f"turn {n} of `{column}` must be [question, answer]", found(both))
            asked = text_of(both[0], f"the question in turn {n} of `{column}`", may_be_empty=True)
            said = text_of(both[1], f"the answer in turn {n} of `{column}`")
            turns += [Message("user", asked), Message("assistant", said)]
        return tuple(turns)

    def _turn(self, value: object, n: int, column: str) -> Message:
        shown = f"turn {n} of `{column}`"
        if not isinstance(value, dict):
            raise BadRow(f"{shown} must be an object", found(value))
        role_key = "role" if "role" in value else _first(ROLE_KEYS, value)
        content_key = "content" if "content" in value else _first(_CONTENT_KEYS, value)
        role = None if role_key is None else _role(value[role_key], shown)
        given = value.get(content_key)
        if len(value) == 2 and role is not None and role != _CALL and isinstance(given, str):
            content_name = f"`{content_key}` of {shown}"
            return Message(role, text_of(given, content_name, may_be_empty=role != "assistant"))
        rest = {key: v for key, v in value.items() if v is not None and key != role_key}
        if self.ignore:
            self.ignored.update(key for key in rest if key in self.ignore)
            rest = {key: v for key, v in rest.items() if key not in self.ignore}
        rest.pop(content_key, None)
        if role is None or (content_key is None and not {"tool_calls", "function_call"} & {*rest}):
            names = quoted(value) or "an empty object"
            raise BadRow(f"{shown} must have `role` and `content` (or `from` and `value`)", names)
        message = self._message(
            role, given, rest, f"`{content_key or 'content'}` of {shown}", shown
        )
        self.unread.update(f"{column}[].{key}" for key, v in rest.items() if is_said(v))
        return message

    def _message(
        self, role: str, given: object, rest: dict[str, Any], content_name: str, shown: str
    ) -> Message:
        """Take what is read out of `rest`."""
        if role == _CALL:
            return Message(
                "assistant", "", None, self._calls(given, rest, shown), learnt=_learnt(rest, shown)
            )
        content, thought = content_of(given, content_name)
        if role != "assistant":
            for key in _WEIGHTS:  # others' turns are never learnt, which 0 says too
                if not rest.get(key, True):
                    del rest[key]
            text = text_of(content, content_name, may_be_empty=True)
            if role != "tool":
                return Message(role, text)
            name, answers = (_optional(rest, key, shown) for key in ("name", "tool_call_id"))
            return Message(role, text, name=name, tool_call_id=answers)
        reasoning = thought
        for key in _REASONING:
            if reasoning is None:
                reasoning = _optional(rest, key, shown)
            elif rest.get(key) == reasoning:
                del rest[key]
        keys = (key for key in ("tool_calls", "function_call") if is_said(rest.get(key)))
        asked = next(keys, None)
        calls = None if asked is None else self._calls(rest.pop(asked), rest, shown)
        learnt = _learnt(rest, shown)
        if calls is None and reasoning is None and learnt:
            return Message(role, text_of(content, content_name), learnt=learnt)
        text = "" if content is None else text_of(content, content_name, may_be_empty=True)
        return Message(role, text, reasoning, calls, learnt=learnt)

    def _calls(self, value: object, rest: dict[str, Any], shown: str) -> str:
        calls, left = calls_of(value, f"`tool_calls` of {shown}", is_typed=self.is_typed)
        rest.update((f"tool_calls[].{key}", True) for key in left)
        return calls


def is_said(value: object) -> bool:
    """Whether a column or a key says anything."""
    return value is not None and value != "" and value != [] and value != {}


def _first(names: Collection[str], among: Mapping[str, object]) -> str | None:
    return next((name for name in names if name in among), None)


def as_list(value: object) -> list[Any] | None:
    """Return the items of a list, of its JSON text, or of an object of lists."""
    given = parsed(value)
    if isinstance(given, dict):  # of lists: how `datasets` stores a sequence of objects
        columns = {key: column for key, column in given.items() if column is not None}
        lists = list(columns.values())
        if not lists or not all(isinstance(c, list) and len(c) == len(lists[0]) for c in lists):
            return None
        return [dict(zip(columns, turn, strict=True)) for turn in zip(*lists, strict=True)]
    return given if isinstance(given, list) else None


def is_system(turn: Mapping[str, object]) -> bool:
    role = turn.get(_first(ROLE_KEYS, turn) or "")
    return isinstance(role, str) and ROLES.get(role.strip().lower()) in SYSTEM


def holds_turns(value: object) -> bool:
    """Whether these are turns, or their JSON text: JSON of other things is a text to learn."""
    turns = as_list(value)
    return bool(turns) and all(
        isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in turns or ()
    )


def _role(said: object, shown: str) -> str:
    role = None
    if isinstance(said, str):
        role = ROLES.get(said) or ROLES.get(said.strip().lower())
    if role is None:
        raise BadRow(
            f"the role of {shown} must be system, developer, user, assistant or tool, "
            f"or another's name of one",
            found(said),
        )
    return role


def content_of(value: object, shown: str) -> tuple[object, str | None]:
    """Return the text, and the reasoning, of a content that may be a list of parts."""
    if not isinstance(value, list):
        return value, None
    texts, thoughts = [], []
    for part in value:
        kind = part.get("type") or "text" if isinstance(part, dict) else None
        if kind == "thinking":
            thoughts.append(text_of(part.get("thinking"), f"the thinking in {shown}"))
        elif isinstance(part, str) or kind in ("text", "input_text", "output_text"):
            text = part if isinstance(part, str) else part.get("text")
            texts.append(text_of(text, f"each text part of {shown}", may_be_empty=True))
        else:
            what = f"a part of type {kind}" if isinstance(kind, str) else found(part)
            raise BadRow(f"{shown} must be text or parts of text", what)
    return "".join(texts), "".join(thoughts) or None


def _optional(rest: dict[str, Any], key: str, shown: str) -> str | None:
    value = rest.pop(key, None)
    return text_of(value, f"`{key}` of {shown}") if is_said(value) else None


def _learnt(rest: dict[str, Any], shown: str) -> bool:
    said = {key: rest.pop(key) for key in _WEIGHTS if key in rest}
    for key, value in said.items():
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            rule = f"`{key}` of {shown} must be 0 or 1: a turn is learnt or not"
            raise BadRow(rule, found(value))
    if len({bool(value) for value in said.values()}) > 1:
        raise BadRow(f"{quoted(said)} of {shown} must agree")
    return all(said.values())
