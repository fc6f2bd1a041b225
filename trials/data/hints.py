"""Which `data.columns` would read a table whose columns have other names."""

from collections.abc import Sequence

from trials.data.table import Table, quoted
from trials.data.turns import ROLE_KEYS, as_list

_LOOKED_AT = 100
"""Rows that tell what a column holds."""
_ASKED = "instruction question query problem prompt input task user".split()
_GIVEN = "context input passage document background".split()
_ANSWERED = "output response answer completion solution target summary reply assistant".split()

_TURNS = "dialog dialogue conversation conversations chat turns messages history utterances".split()

UNKNOWN = "<its column>"


def columns_hint(table: Table, present: Sequence[str]) -> str:
    """Return the line to write, as far as it can be told."""
    columns, ignore = guessed(table, present)
    if columns == {"messages": UNKNOWN}:
        listed = quoted(name for name in present if _may_be_turns(table, name))
        return (
            f"{listed} seems to hold turns: write each as "
            f'{{"role": "user", "content": "…"}}, in a column `messages`'
        )
    pairs = ", ".join(f"{ours}: {theirs}" for ours, theirs in columns.items())
    if ignore:
        return (
            f"They are pairs of a wanted and an unwanted answer; to learn the wanted ones: "
            f"data.columns: {{{pairs}}} and data.ignore: [{', '.join(ignore)}]"
        )
    return f"Say which column is which, such as data.columns: {{{pairs}}}"


def guessed(table: Table, present: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return our names of columns → the file's, or `UNKNOWN`; and the columns to leave out."""
    turns = [name for name in present if _holds(table, name) is list]
    texts = [name for name in present if _holds(table, name) is str]
    if "chosen" in present and "rejected" in present:
        asked_apart = "prompt" in (turns if "chosen" in turns else present)
        key = "completion" if asked_apart else "messages" if "chosen" in turns else "text"
        return {key: "chosen"}, ["rejected"]
    if turns:
        return {"messages": turns[0]}, []
    if len(texts) < 2 and any(_may_be_turns(table, name) for name in present):
        return {"messages": UNKNOWN}, []
    if len(texts) < 2:
        return {"text": texts[0] if texts else UNKNOWN}, []
    asked = _first(_ASKED, texts)
    answered = _first(_ANSWERED, [name for name in texts if name != asked])
    if asked is None or answered is None:
        three = ("instruction", "input", "output")
        names = three if len(texts) > 2 else ("prompt", "completion")
        return dict.fromkeys(names, UNKNOWN), []
    given = _first(_GIVEN, [name for name in texts if name not in (asked, answered)])
    system = {"system": "system_prompt"} if "system_prompt" in texts else {}
    if given is not None:
        return {"instruction": asked, "input": given, "output": answered, **system}, []
    return {"prompt": asked, "completion": answered, **system}, []


def _first(words: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for word in words for name in names if name.lower() == word), None)


def _may_be_turns(table: Table, name: str) -> bool:
    """Whether a column holds lists that look as turns in no form that is read."""
    value = as_list(_first_value(table, name))
    return bool(value) and (
        name.lower() in _TURNS or all(isinstance(item, list | dict) for item in value or ())
    )


def _first_value(table: Table, name: str) -> object:
    values = (row.columns.get(name) for row in table.rows[:_LOOKED_AT])
    return next((value for value in values if value is not None), None)


def _holds(table: Table, name: str) -> type | None:
    """Whether a column holds lists of turns, or texts."""
    value = _first_value(table, name)
    turns = as_list(value)
    if turns and isinstance(turns[0], dict) and any(key in turns[0] for key in ROLE_KEYS):
        return list
    return str if isinstance(value, str) else None
