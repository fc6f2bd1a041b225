"""Rows of columns → conversations, prompts with completions, or texts; or what is wrong."""

import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from trials.config import DataError
from trials.data.conversation import Example, Message
from trials.data.table import Row, Table, found, nearest, quoted

_ROLES = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "human": "user",  # ShareGPT
    "gpt": "assistant",
}


@dataclass(frozen=True, slots=True)
class _Record:
    """One row under our names of its columns."""

    values: Mapping[str, object]
    names: Mapping[str, str]
    """Our name → the file's, which messages use."""
    place: str

    def text(self, name: str, *, may_be_empty: bool = False) -> str:
        return _text(self.values[name], self._shown(name), may_be_empty=may_be_empty)

    def turns(self, name: str) -> tuple[Message, ...]:
        value, shown = self.values[name], self._shown(name)
        if not isinstance(value, list):
            raise DataError(
                f'{shown} must be a list such as [{{"role": "user", "content": "…"}}, …], '
                f"found {found(value)}"
            )
        return tuple(_turn(turn, f"turn {n} of {shown}") for n, turn in enumerate(value, 1))

    def _shown(self, name: str) -> str:
        return f"`{self.names.get(name, name)}`"


def _text(value: object, shown: str, *, may_be_empty: bool) -> str:
    if not isinstance(value, str):
        raise DataError(f"{shown} must be text, found {found(value)}")
    if not may_be_empty and not value.strip():
        raise DataError(f"{shown} must not be empty, found {value[:20]!r}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{shown} must be whole characters, found half of one (a lone surrogate) "
            f"at character {error.start}"
        ) from None
    return value


def _turn(value: object, shown: str) -> Message:
    if not isinstance(value, dict):
        raise DataError(f"{shown} must be an object, found {found(value)}")
    role_key, content_key = ("role", "content") if "role" in value else ("from", "value")
    if role_key not in value or content_key not in value:
        raise DataError(
            f"{shown} must have `role` and `content` (or `from` and `value`), "
            f"found {quoted(value) or 'an empty object'}"
        )
    said_role = value[role_key]
    role = _ROLES.get(said_role) if isinstance(said_role, str) else None
    if role is None:
        rule = "must be system, user, assistant or tool"
        raise DataError(f"the role of {shown} {rule}, found {found(said_role)}")
    if value.get("tool_calls"):
        raise DataError(
            f"{shown} must have all text in its content, found `tool_calls`, which are not read"
        )
    content_name = f"`{content_key}` of {shown}"
    content = _text(value[content_key], content_name, may_be_empty=role != "assistant")
    return Message(role, content)


def _conversation(turns: tuple[Message, ...], place: str) -> Example:
    last = turns[-1].role if turns else None
    if last != "assistant":
        raise DataError(
            f"a conversation must end with a turn of the assistant, "
            f"found {f'one of the {last}' if last else 'no turns'}"
        )
    return Example(turns, None, None, None, place)


def _from_turns(name: str, record: _Record) -> Example:
    return _conversation(record.turns(name), record.place)


def _from_prompt(record: _Record) -> Example:
    if all(isinstance(record.values[name], list) for name in ("prompt", "completion")):
        return _conversation(record.turns("prompt") + record.turns("completion"), record.place)
    prompt = record.text("prompt", may_be_empty=True)
    return Example(None, prompt, record.text("completion"), None, record.place)


def _from_instruction(record: _Record) -> Example:
    prompt = record.text("instruction", may_be_empty=True)
    if record.values.get("input") is not None:
        given = record.text("input", may_be_empty=True)
        prompt = f"{prompt}\n\n{given}" if given.strip() else prompt
    return Example(None, prompt, record.text("output"), None, record.place)


def _from_text(record: _Record) -> Example:
    return Example(None, None, None, record.text("text"), record.place)


def _from_template(pieces: Sequence[tuple[str, str | None]], record: _Record) -> Example:
    fields = {name: record.text(name, may_be_empty=True) for _, name in pieces if name is not None}
    if not any(value.strip() for value in fields.values()):
        raise DataError(f"one field of data.template must not be empty, found {quoted(fields)} so")
    text = "".join(literal + ("" if name is None else fields[name]) for literal, name in pieces)
    return Example(None, None, None, text, record.place)


@dataclass(frozen=True, slots=True)
class _Format:
    required: tuple[str, ...]
    read: Callable[[_Record], Example]
    optional: tuple[str, ...] = ()

    def fits(self, names: Iterable[str]) -> bool:
        return set(self.required) <= set(names)

    def __str__(self) -> str:
        extra = "".join(f" (+ `{name}`)" for name in self.optional)
        return " + ".join(f"`{name}`" for name in self.required) + extra


_FORMATS = (  # the first that fits is taken: instruction before text, since Alpaca has both
    _Format(("messages",), partial(_from_turns, "messages")),
    _Format(("conversations",), partial(_from_turns, "conversations")),
    _Format(("prompt", "completion"), _from_prompt),
    _Format(("instruction", "output"), _from_instruction, ("input",)),
    _Format(("text",), _from_text),
)


def converted(
    table: Table, columns: Mapping[str, str], template: str | None
) -> tuple[list[Example], list[str]]:
    """Return the examples of a table, and what is wrong with its other rows."""
    present = list(dict.fromkeys(name for row in table.rows for name in row.columns))
    problems = _unknown_columns(columns, present, table.title) if table.rows else []
    if problems or not table.rows:
        return [], problems
    records = [_record(row, table, columns) for row in table.rows]
    try:
        chosen = _format(records, columns, template, table.title)
    except DataError as error:
        return [], [str(error)]
    examples = []
    for row, record in zip(table.rows, records, strict=True):
        try:
            examples.append(_example(record, chosen))
        except DataError as error:
            problems.append(f"{row.position} of {table.title}: {error}. Fix or remove that row.")
    return examples, problems


def _unknown_columns(columns: Mapping[str, str], present: Sequence[str], title: str) -> list[str]:
    return [
        f"data.columns takes `{ours}` from `{theirs}`, which is not a column of "
        f"{title}{nearest(theirs, present)} Its columns are {quoted(present)}."
        for ours, theirs in columns.items()
        if theirs not in present
    ]


def _record(row: Row, table: Table, columns: Mapping[str, str]) -> _Record:
    values = {name: value for name, value in row.columns.items() if name not in columns}
    mapped = {ours: row.columns[name] for ours, name in columns.items() if name in row.columns}
    return _Record(values | mapped, columns, f"{table.name} {row.position}")


def _example(record: _Record, chosen: _Format) -> Example:
    if not chosen.fits(record.values):
        found_names = quoted(record.values) or "no columns"
        raise DataError(f"all rows must have one format, here {chosen}; found {found_names}")
    return chosen.read(record)


def _format(
    records: Sequence[_Record], columns: Mapping[str, str], template: str | None, title: str
) -> _Format:
    """Return the format of most rows, so that a single odd row is the one called wrong."""
    present = list(dict.fromkeys(name for record in records for name in record.values))
    if template is not None:
        return _template_format(template, present, title)
    formats = _formats_with(columns)
    fitting = (next((f for f in formats if f.fits(record.values)), None) for record in records)
    counts = Counter(one for one in fitting if one is not None)
    if counts:
        return counts.most_common(1)[0][0]
    names = ("prompt", "completion") if len(present) > 1 else ("text",)
    such = ", ".join(f"{name}: <its column>" for name in names)
    raise DataError(
        f"the columns of {title} must be {_listed(formats)}; found {quoted(present) or 'none'}. "
        f"Say which column is which, such as data.columns: {{{such}}}."
    )


def _formats_with(columns: Mapping[str, str]) -> list[_Format]:
    ours = dict.fromkeys(name for one in _FORMATS for name in one.required + one.optional)
    for name in columns:
        if name not in ours:
            raise DataError(
                f"data.columns must map names out of {quoted(ours)}, found `{name}`"
                f"{nearest(name, ours)} Write our name first: {{prompt: <the file's column>}}."
            )
    formats = [one for one in _FORMATS if set(columns) <= {*one.required, *one.optional}]
    if not formats:
        raise DataError(
            f"data.columns must name the columns of one format ({_listed(_FORMATS)}); "
            f"found {quoted(columns)}. Leave out those of another."
        )
    return formats


def _listed(formats: Sequence[_Format]) -> str:
    return ", or ".join(str(one) for one in formats)


def _template_format(template: str, present: Sequence[str], title: str) -> _Format:
    """Read `template` without str.format, which would follow attributes and indices."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise DataError(
            f"data.template cannot be read: {error}. Write {{{{ and }}}} for a brace itself."
        ) from None
    for _, name, spec, conversion in parsed:
        if name is not None and (name not in present or spec or conversion):
            raise DataError(
                f"data.template may hold only {{column}} fields with columns of {title} "
                f"({quoted(present)}), found {_field(name, spec, conversion)}"
                f"{nearest(name, present)} Write {{{{ and }}}} for a brace itself."
            )
    pieces = [(literal, name) for literal, name, _, _ in parsed]
    names = tuple(dict.fromkeys(name for _, name in pieces if name is not None))
    if not names:
        raise DataError("data.template must hold a field such as {text}, found none.")
    return _Format(names, partial(_from_template, pieces))


def _field(name: str, spec: str | None, conversion: str | None) -> str:
    return f"{{{name}{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}}}"
