"""Data files → examples: read whole, split, compared; every problem of a file at once."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trials.config import DataError
from trials.data.addresses import is_address, local_path
from trials.data.conversation import Example, Message
from trials.data.files import read_address, read_file
from trials.data.formats import Reading, Rows, converted
from trials.data.hub import read_hub
from trials.data.table import Table, data_suffix

__all__ = [
    "Example",
    "Message",
    "Reading",
    "Source",
    "fingerprint",
    "looks_like_hub_id",
    "read_examples",
    "shared_rows",
    "split",
]

_HUB_ID = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(:[\w.:%+\[\]-]+)?", re.ASCII)
_FILE_ENDINGS = (".txt", ".md", ".xlsx", ".xls", ".arrow", ".zip", ".gz", ".zst", ".yaml", ".yml")


@dataclass(slots=True)
class Source(Rows):
    """The rows of `data.train` or `data.eval`, in their order."""

    files: list[dict[str, Any]] = field(default_factory=list)
    """Name and number of rows of each."""
    skipped: list[dict[str, Any]] = field(default_factory=list)
    """Why rows were left out, how many, and where they are."""


def read_examples(sources: str | Sequence[str], *, key: str, reading: Reading) -> Source:
    """Return all rows of local files or of data sets of the hub.

    Args:
        sources: Each the absolute path of a file, an address such as `s3://bucket/train.jsonl`,
            or `org/name:split`.
        key: The YAML key that names the sources, such as `data.train`: it begins each message.

    Raises:
        DataError: One line for each kind of problem; no row is left out silently.
    """
    read, problems = Source(), []
    tables: list[Table] = []
    for source in [sources] if isinstance(sources, str) else sources:
        try:
            tables.append(_read(source))
        except DataError as error:
            problems.append(str(error))
    names = Counter(table.name for table in tables)
    several = tables if reading.columns and len(tables) > 1 else []
    elsewhere = {name for table in several for row in table.rows for name in row.columns}
    for table in tables:
        if names[table.name] > 1:  # of two folders
            table.name = table.title
        rows, wrong = converted(table, reading, elsewhere)
        problems += [
            *table.problems,
            *wrong,
            *([] if reading.skip_bad_rows else table.bad.problems()),
        ]
        if table.bad.kinds and not (rows.examples or problems):
            problems.append(f"no row of {table.title} can be used: {table.bad.in_short()}.")
        read.add(rows)
        read.files.append({"name": table.name, "rows": len(rows.examples)})
        read.skipped += table.bad.report()
    if problems:
        raise DataError("\n".join(f"{key}: {problem}" for problem in problems))
    return read


def _read(source: str) -> Table:
    if looks_like_hub_id(source):
        return read_hub(source)
    path = local_path(source)
    return read_file(Path(path)) if not is_address(path) else read_address(path)


def looks_like_hub_id(source: str) -> bool:
    """Whether `source` is `org/name` or `org/name:split` and not the path of a file."""
    matched = _HUB_ID.fullmatch(source)
    if matched is None:
        return False
    name = matched[1].lower()
    return data_suffix(name) is None and not name.endswith(_FILE_ENDINGS)


def shared_rows(train: Sequence[Example], eval_: Sequence[Example]) -> list[tuple[str, str]]:
    """Return (train place, eval place) for each eval row that is also a training row.

    Rows are equal when their texts are, white space at the ends apart. Of several equal
    training rows the first is named.
    """
    places: dict[str, str] = {}
    for example in train:
        places.setdefault(_content(example, strip=True), example.place)
    contents = [_content(example, strip=True) for example in eval_]
    pairs = zip(contents, eval_, strict=True)
    return [(places[content], example.place) for content, example in pairs if content in places]


def split(
    examples: Sequence[Example], fraction: float, seed: int, *, key: str = "data.eval"
) -> tuple[list[Example], list[Example]]:
    """Return (train, eval), with about `fraction` of the rows in eval, each in the given order.

    Equal rows (as in `shared_rows`) stay on one side. Which rows are drawn depends on their
    contents and `seed`, not on their order.

    Raises:
        DataError: The fraction is not between 0 and 1, or there are not two different rows.
    """
    if not 0 < fraction < 1:
        raise DataError(
            f"{key}: a fraction must be above 0 and below 1, found {fraction}. "
            f"Choose one such as 0.1, or name a file."
        )
    contents = [_content(example, strip=True) for example in examples]
    counts = Counter(contents)
    if len(counts) < 2:
        raise DataError(
            f"{key}: a fraction needs at least two different training rows, "
            f"found {len(counts)} among {len(examples)}. Add rows, or name a file."
        )
    n_eval = min(max(1, round(fraction * len(examples))), len(examples) - 1)
    drawn: set[str] = set()
    n_drawn = 0
    order = sorted(counts, key=lambda content: _sha256([str(seed), content]))
    for content in order:
        if n_drawn + counts[content] <= n_eval:
            drawn.add(content)
            n_drawn += counts[content]
    drawn = drawn or {min(order, key=lambda content: counts[content])}
    pairs = list(zip(examples, contents, strict=True))
    train = [example for example, content in pairs if content not in drawn]
    return train, [example for example, content in pairs if content in drawn]


def fingerprint(examples: Iterable[Example]) -> str:
    """Return the SHA-256, in hex, of the contents in their order; places do not count."""
    return _sha256(_content(example) for example in examples)


def _sha256(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("ascii") + b"\n")
    return digest.hexdigest()


def _content(example: Example, *, strip: bool = False) -> str:
    """Return everything but the place as JSON: one line of ASCII."""
    turns = example.messages or ()
    texts = [example.prompt, example.completion, example.text, *(turn.content for turn in turns)]
    stripped = [text.strip() if strip and text else text for text in texts]
    known: list[object] = [stripped, [turn.role for turn in turns]]
    beside = [turn.beside for turn in turns]
    if any(beside) or example.tools or example.system is not None:
        known += [beside, example.tools, example.system]
    return json.dumps(known)
