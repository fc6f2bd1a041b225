"""`Table`: rows with the place each came from, and words for what is wrong."""

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import psutil

from trials.config import DataError
from trials.data.bad_rows import BadRow, BadRows


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it is stored."""

    position: str
    """`line 17` of JSON Lines, otherwise `row 17`: from 1, header and blank lines apart."""
    columns: Mapping[str, object]


@dataclass(slots=True)
class Table:
    """The rows of one source that could be read, and what is wrong with the others."""

    title: str
    """The source in a message: `data/train.jsonl`, or `org/name:train`."""
    name: str
    """The same without folders."""
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Of the file, such as a quotation mark that never closes."""
    bad: BadRows = field(init=False)
    is_typed: bool = False
    """Whether an object has all keys of its column, null where the row has none (Arrow)."""

    def __post_init__(self) -> None:
        self.bad = BadRows(self.title)

    def add(self, position: str, value: object) -> None:
        """Take `value` as a row, or as a bad one if it is no object."""
        if isinstance(value, dict):
            self.rows.append(Row(position, value))
            return
        rule = 'must be a JSON object such as {"prompt": "…", "completion": "…"}'
        self.bad.add(position, BadRow(rule, found(value)))


def nearest(name: str, names: Iterable[str]) -> str:
    """Return `; did you mean …?` with the one of `names` most like `name`, else a full stop."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean `{snippet(close[0])}`?" if close else "."


def quoted(names: Iterable[str]) -> str:
    """Return names for a message, at most 20 of them: `prompt`, `completion`."""
    listed = [f"`{snippet(name)}`" for name in names]
    return ", ".join(listed[:20] + ["…"] * (len(listed) > 20))


def found(value: object) -> str:
    """Return in words what a stored value is."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return f"the number {snippet(str(value))}"
    if isinstance(value, str):
        return f"the text '{snippet(value)}'"
    if isinstance(value, list):
        return "a list"
    return "an object" if isinstance(value, dict) else f"a {type(value).__name__}"


def text_of(value: object, shown: str, *, may_be_empty: bool = False) -> str:
    """Return `value` where it is text, and not half of a character.

    Raises:
        BadRow: It is not, or it is empty.
    """
    if not isinstance(value, str):
        raise BadRow(f"{shown} must be text", found(value))
    if not may_be_empty and not value.strip():
        raise BadRow(f"{shown} must not be empty", repr(value[:20]))
    return whole(value, shown)


def whole(text: str, shown: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"half of one (a lone surrogate) at character {error.start}"
        raise BadRow(f"{shown} must be whole characters", half) from None
    return text


def snippet(text: str, at: int = 0) -> str:
    start = max(0, at - 30)
    return "".join(c if c.isprintable() else " " for c in text[start : start + 60])


def first_line(error: Exception) -> str:
    """Return the beginning of what was raised, for a message."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300].rstrip(".") + "."


TEXT_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
KNOWN_SUFFIXES = f"{', '.join(TEXT_SUFFIXES)} (each also with .gz) or .parquet"


def data_suffix(name: str) -> str | None:
    """Return `.jsonl` for `train.jsonl` and `train.jsonl.gz`; None if no known suffix ends it."""
    lowered = name.lower()
    for suffix in TEXT_SUFFIXES:
        if lowered.endswith((suffix, f"{suffix}.gz")):
            return suffix
    return ".parquet" if lowered.endswith(".parquet") else None


def check_size(n_bytes: int, title: str) -> None:
    """Refuse what would not fit: a file of a few kilobytes may unpack to more than any memory."""
    most = most_bytes()
    if n_bytes > most:
        raise DataError(
            f"{title} must fit into a quarter of the free memory ({most / 2**30:.1f} GiB), since "
            f"its rows are held whole, but it unpacks to more. Split it, or free memory."
        )


def most_bytes() -> int:
    return int(psutil.virtual_memory().available) // 4


def check_names(names: list[str], title: str) -> None:
    twice = [name for name, n in Counter(names).items() if n > 1 and name]
    if twice:
        raise DataError(
            f"each column of {title} must have a name of its own; found twice: {quoted(twice)}. "
            f"Rename one."
        )
