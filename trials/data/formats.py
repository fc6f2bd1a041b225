"""Rows of columns → conversations, prompts with completions, or texts; or what is wrong."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from trials.config import DataError
from trials.data.bad_rows import BadRow, NothingLearnt
from trials.data.conversation import Example, Message
from trials.data.hints import columns_hint
from trials.data.table import Row, Table, nearest, quoted, text_of
from trials.data.templates import Pieces, filled, names_in, pieces_of
from trials.data.tools import tools_of
from trials.data.turns import SYSTEM, Turns, as_list, content_of, holds_turns, is_said, is_system

CHANGES_MEANING = frozenset(
    "label labels kto_tag chosen rejected rejected_response rejected_messages "
    "non_preferred_output images image image_url videos video audios audio weight "
    "sample_weight train_detail loss_scale mask".split()
)
"""Columns, and keys of turns, without which a row says something else: unwanted answers, pictures
that a text speaks of, weights. More would refuse what is harmless."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How rows are read: keys of `data` in the space."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Our name of a column → the file's."""
    template: str | None = None
    """A text with `{column}` fields, which then makes the text of each row."""
    prompt: str | None = None
    completion: str | None = None
    """The same for rows with prompt and completion."""
    system: str | None = None
    """The system turn of rows that have none."""
    ignore: Sequence[str] = ()
    skip_bad_rows: bool = False


@dataclass(slots=True)
class Rows:
    """What was read of one or several tables, and what was not."""

    examples: list[Example] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)
    """A column, or a key of turns such as `messages[].date` → how often it says something."""
    ignored: set[str] = field(default_factory=set)
    """Names of `data.ignore` that were found."""
    n_own_system: int = 0
    """Rows whose own system turn was taken, not `data.system`."""

    def add(self, other: "Rows") -> None:
        self.examples += other.examples
        self.unread += other.unread
        self.ignored |= other.ignored
        self.n_own_system += other.n_own_system


@dataclass(slots=True)
class _Record:
    """One row under our names of its columns."""

    values: Mapping[str, object]
    names: Mapping[str, str]
    """Our name → the file's, which messages use."""
    place: str
    turns_of: Turns

    def text(self, name: str, *, may_be_empty: bool = False) -> str:
        return text_of(self.values[name], f"`{self._named(name)}`", may_be_empty=may_be_empty)

    def turns(self, name: str) -> tuple[Message, ...]:
        return self.turns_of.read(self._without_tools(name), self._named(name))

    def _without_tools(self, name: str) -> object:
        """A column of turns; tools that its system turn has become the row's, if it has none."""
        turns = as_list(self.values[name])
        first = turns[0] if turns else None
        if not turns or not isinstance(first, dict) or not is_system(first):
            return self.values[name] if turns is None else turns
        for key in ("tools", "functions"):
            known = key in self.turns_of.ignore or self.tools() is not None
            if not known and is_said(tools := first.get(key)):
                self.values = {**self.values, key: tools}
                first = {k: v for k, v in first.items() if k != key}
        return [first, *turns[1:]]

    def turns_or_text(self, name: str, role: str) -> tuple[Message, ...]:
        """The turns of a column, or the one whose text it is."""
        if isinstance(self.values[name], list) or holds_turns(self.values[name]):
            return self.turns(name)
        return (Message(role, self.text(name, may_be_empty=role == "user")),)

    def history(self) -> tuple[Message, ...]:
        given = self.values.get("history")
        return self.turns_of.history(given, self._named("history")) if is_said(given) else ()

    def system(self) -> str | None:
        given = self.values.get("system")
        if given is None:
            return None
        shown = f"`{self._named('system')}`"
        text = text_of(content_of(given, shown)[0], shown, may_be_empty=True)
        return text if text.strip() else None

    def tools(self) -> str | None:
        for name in ("tools", "functions"):  # OpenAI's older name
            if is_said(given := self.values.get(name)):
                shown = f"`{self._named(name)}`"
                return tools_of(given, shown, is_typed=self.turns_of.is_typed)
        return None

    def _named(self, name: str) -> str:
        return self.names.get(name, name)


def _conversation(turns: tuple[Message, ...], record: _Record) -> Example:
    last = turns[-1].role if turns else None
    if last != "assistant":
        raise BadRow(
            "a conversation must end with a turn of the assistant",
            f"one of the {last}" if last else "no turns",
        )
    if not turns[-1].learnt and not any(t.learnt and t.role == "assistant" for t in turns):
        raise NothingLearnt("no turn is left to learn: all have weight 0")
    system = record.system()
    if system is not None:
        own = [turn.content for turn in turns if turn.role in SYSTEM]
        if not own:
            turns = (Message("system", system), *turns)
        elif system.strip() not in map(str.strip, own):
            raise BadRow("the system turn must be that of the column `system`, or the only one")
    return Example(turns, None, None, None, record.place, record.tools())


def _pair(prompt: str, completion: str, record: _Record) -> Example:
    if history := record.history():
        pair = Message("user", prompt), Message("assistant", completion)
        return _conversation((*history, *pair), record)
    return Example(None, prompt, completion, None, record.place, record.tools(), record.system())


def _from_turns(name: str, record: _Record) -> Example:
    return _conversation(record.turns(name), record)


def _from_prompt(record: _Record) -> Example:
    values = record.values
    both = values["prompt"], values["completion"]
    if any(isinstance(value, list) for value in both) or all(map(holds_turns, both)):
        asked = record.turns_or_text("prompt", "user")
        prompt = (
            replace(turn, learnt=False) if turn.role == "assistant" else turn
            for turn in (*record.history(), *asked)
        )
        answer = record.turns_or_text("completion", "assistant")
        return _conversation((*prompt, *answer), record)
    return _pair(record.text("prompt", may_be_empty=True), record.text("completion"), record)


def _from_instruction(record: _Record) -> Example:
    prompt = record.text("instruction", may_be_empty=True)
    if record.values.get("input") is not None:
        given = record.text("input", may_be_empty=True)
        if given.strip():
            prompt = f"{prompt}\n\n{given}" if prompt.strip() else given
    return _pair(prompt, record.text("output"), record)


def _from_text(record: _Record) -> Example:
    return Example(None, None, None, record.text("text"), record.place)


def _from_template(pieces: Pieces, record: _Record) -> Example:
    text = filled("data.template", pieces, record.values)
    return Example(None, None, None, text, record.place)


def _from_templates(prompt: Pieces, completion: Pieces, record: _Record) -> Example:
    asked = filled("data.prompt", prompt, record.values)
    answer = filled("data.completion", completion, record.values)
    return Example(None, asked, answer, None, record.place)


@dataclass(frozen=True, slots=True)
class _Format:
    required: tuple[str, ...]
    read: Callable[[_Record], Example]
    optional: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    """Optional too, and in many formats."""

    @property
    def all(self) -> tuple[str, ...]:
        return self.required + self.optional + self.beside

    def fits(self, names: Iterable[str]) -> bool:
        return set(self.required) <= set(names)

    def __str__(self) -> str:
        extra = "".join(f" (+ `{name}`)" for name in self.optional)
        return " + ".join(f"`{name}`" for name in self.required) + extra


_CHAT = ("system", "tools", "functions")
_FORMATS = (  # the first that fits is taken: instruction before text, since Alpaca has both
    _Format(("messages",), partial(_from_turns, "messages"), beside=_CHAT),
    _Format(("conversations",), partial(_from_turns, "conversations"), beside=_CHAT),
    _Format(("prompt", "completion"), _from_prompt, beside=("history", *_CHAT)),
    _Format(("instruction", "output"), _from_instruction, ("input",), ("history", *_CHAT)),
    _Format(("text",), _from_text),
)


def converted(
    table: Table, reading: Reading, elsewhere: Collection[str] = ()
) -> tuple[Rows, list[str]]:
    """Return the rows of a table, and what is wrong with all of them or with their columns.

    A row that is wrong by itself goes to `table.bad`. Columns that only other tables have, those
    `elsewhere`, need no name here where the table's own form fits without.
    """
    rows = Rows()
    if not table.rows:
        return rows, []
    shapes = Counter(tuple(row.columns) for row in table.rows)
    present = list(dict.fromkeys(name for shape in shapes for name in shape))
    rows.ignored = {name for name in reading.ignore if name in present}
    kept = [name for name in present if name not in rows.ignored]
    here = {o: name for o, name in reading.columns.items() if name in kept or name not in elsewhere}
    if _has_form(kept, without := replace(reading, columns=here)):
        reading = without
    if problems := _unknown_columns(reading, kept, table.title):
        return rows, problems
    try:
        chosen = _format(table, shapes, kept, reading)
    except DataError as error:
        return rows, [str(error)]
    turns = Turns(reading.ignore, table.is_typed)
    fitting = {shape: chosen.fits(_ours(shape, reading)) for shape in shapes}
    for row in table.rows:
        try:
            if not fitting[tuple(row.columns)]:
                names = quoted(row.columns) or "no columns"
                raise BadRow(f"all rows must have one format, here {chosen}", names)
            record = _record(row, table, reading, turns)
            rows.examples.append(_with_system(chosen.read(record), reading, rows))
        except BadRow as bad:
            table.bad.add(row.position, bad)
    rows.unread = _unread(table, chosen, kept, reading) + turns.unread
    rows.ignored |= turns.ignored
    return rows, list(_changed_meanings(rows, reading, table.title))


def _has_form(names: Sequence[str], reading: Reading) -> bool:
    return any(one.fits(_ours(names, reading)) for one in _FORMATS)


def _unknown_columns(reading: Reading, present: Sequence[str], title: str) -> list[str]:
    mend = ""
    if _has_form(present, replace(reading, columns={})):
        mend = " It is read without data.columns; if other files need them, rename theirs."
    return [
        f"data.columns takes `{ours}` from `{theirs}`, which is not a column of "
        f"{title}{nearest(theirs, present)} Its columns are {quoted(present)}.{mend}"
        for ours, theirs in reading.columns.items()
        if theirs not in present
    ]


def _ours(shape: Iterable[str], reading: Reading) -> set[str]:
    """Our names of the columns that a row has."""
    names = set(shape) - set(reading.ignore)
    mapped = {ours for ours, theirs in reading.columns.items() if theirs in names}
    return names - set(reading.columns) | mapped


def _record(row: Row, table: Table, reading: Reading, turns: Turns) -> _Record:
    columns, values = reading.columns, row.columns
    if columns or reading.ignore:
        mapped = {ours: values[name] for ours, name in columns.items() if name in values}
        out = {*columns, *reading.ignore}
        values = {name: value for name, value in values.items() if name not in out} | mapped
    return _Record(values, columns, f"{table.name} {row.position}", turns)


def _with_system(example: Example, reading: Reading, rows: Rows) -> Example:
    if reading.system is None:
        return example
    turns = example.messages or ()
    if example.system is not None or any(turn.role in SYSTEM for turn in turns):
        rows.n_own_system += 1
        return example
    if turns:
        return replace(example, messages=(Message("system", reading.system), *turns))
    return replace(example, system=reading.system)


def _unread(table: Table, chosen: _Format, present: list[str], reading: Reading) -> Counter[str]:
    read = {reading.columns.get(name, name) for name in chosen.all}
    unread = [name for name in present if name not in read]
    counts = {name: sum(is_said(row.columns.get(name)) for row in table.rows) for name in unread}
    return Counter({name: n for name, n in counts.items() if n})


def _changed_meanings(rows: Rows, reading: Reading, title: str) -> Iterator[str]:
    unread = rows.unread
    last = {name: name.rpartition("[].")[2] for name in unread}
    # Weights of turns are read; those left are of turns that only the assistant's side could have.
    changing = {
        n: k for n, k in last.items() if k in CHANGES_MEANING and not n.endswith("].weight")
    }
    if not changing:
        return
    counts = ", ".join(f"`{name}` ({unread[name]:,})" for name in changing)
    ignored = [name for name in reading.ignore if name in rows.ignored]
    names = dict.fromkeys([*ignored, *changing.values()])
    yield (
        f"what changes the meaning of a row must be read, but {title} has {counts}, which is not. "
        f"Remove what should not be learnt; to train on all rows without it, write "
        f"data.ignore: [{', '.join(names)}]"
    )


def _format(
    table: Table, shapes: Counter[tuple[str, ...]], present: list[str], reading: Reading
) -> _Format:
    """Return the format of most rows, so that a single odd row is the one called wrong."""
    title = table.title
    if reading.template is not None:
        pieces = pieces_of("data.template", reading.template, present, title)
        _check_system(reading, title)
        return _Format(names_in(pieces), partial(_from_template, pieces))
    if reading.prompt is not None and reading.completion is not None:
        prompt = pieces_of("data.prompt", reading.prompt, present, title)
        completion = pieces_of("data.completion", reading.completion, present, title)
        fields = tuple(dict.fromkeys(names_in(prompt) + names_in(completion)))
        return _Format(fields, partial(_from_templates, prompt, completion))
    formats = _formats_with(reading.columns)
    counts: Counter[_Format] = Counter()
    for shape, n in shapes.items():
        names = _ours(shape, reading)
        if fitting := [one for one in formats if one.fits(names)]:
            counts[fitting[0]] += n
    if not counts:
        raise DataError(
            f"the columns of {title} must be {_listed(formats)}; "
            f"found {quoted(present) or 'none'}. {columns_hint(table, present)}"
        )
    chosen = counts.most_common(1)[0][0]
    if chosen.required == ("text",):
        _check_system(reading, title)
    return chosen


def _check_system(reading: Reading, title: str) -> None:
    if reading.system is not None:
        raise DataError(
            f"data.system needs rows with prompt and completion, or messages, but {title} has rows "
            f"of one text each. Remove data.system, or write it into the text."
        )


def _formats_with(columns: Mapping[str, str]) -> list[_Format]:
    ours = dict.fromkeys(name for one in _FORMATS for name in one.all)
    for name in columns:
        if name not in ours:
            raise DataError(
                f"data.columns must map names out of {quoted(ours)}, found `{name}`"
                f"{nearest(name, ours)} Write our name first: {{prompt: <the file's column>}}."
            )
    formats = [one for one in _FORMATS if set(columns) <= set(one.all)]
    if not formats:
        raise DataError(
            f"data.columns must name the columns of one format ({_listed(_FORMATS)}); "
            f"found {quoted(columns)}. Leave out those of another."
        )
    return formats


def _listed(formats: Sequence[_Format]) -> str:
    return ", or ".join(str(one) for one in formats)
