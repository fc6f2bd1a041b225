"""How a file of rows is read: found, and tried on them: `python -m trials.preparation.discover`."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from trials.config import DataError
from trials.data.examples import Example, Reading, read_examples, shared_rows
from trials.data.files import read_file
from trials.data.formats import converted
from trials.data.hints import UNKNOWN, guessed
from trials.data.table import data_suffix
from trials.data.tokens import LEAST_SAMPLE_ROWS
from trials.models.sources import load_tokenizer
from trials.parent import end_with_parent
from trials.preparation.model_checks import reachable
from trials.preparation.prepare import Request, main, prepare
from trials.rendering import chat_templates

_WORDS_OF = {"eval": ("eval", "evaluation", "valid", "validation", "val", "dev"), "test": ("test",)}
"""Of file names, the first choice first. Test rows must decide nothing: never eval rows."""
_FORMS = {"messages": "conversations", "prompt": "prompts with completions", "text": "plain texts"}
_SHARE, _MOST = 0.1, 0.3
"""Of the rows that are held out: of many, and of few."""


@dataclass(slots=True)
class Found:
    """Keys of `data`, and why each is set."""

    keys: dict[str, Any] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)

    def add(self, key: str, value: object, why: str) -> None:
        self.keys[key], self.why[key] = value, why


def discover(request: Request) -> dict[str, Any]:
    """Prepare the rows of `request.train` as they seem to be meant; add what was `found`.

    Raises:
        DataError: They cannot be read; in the words of a reader who was told no more.
        ConfigError: Of the model.
    """
    found = Found()
    train = Path(str(request.train))
    reading = _reading(train, found)
    # Bad rows are left out while looking; whether they are a fault is seen when all is prepared.
    lenient = replace(reading, skip_bad_rows=True)
    source = read_examples(str(train), key="data.train", reading=lenient)
    rows = source.examples
    found.why["train"] = f"{len(rows):,} rows: {_form(rows)}"
    eval_, eval_rows = _eval(train, rows, lenient, found)
    test, _, test_rows = _beside("test", train, [*rows, *eval_rows], lenient)
    if test is not None:
        found.add("test", Path(test).name, f"{len(test_rows):,} rows; they decide nothing")
    request = replace(request, reading=reading, eval=eval_, test=test)
    if request.chat_template is None and _needs_template(request, rows):
        found.add("chat_template", chat_templates.CHATML, "the model has no chat template")
        request = replace(request, chat_template=chat_templates.named(chat_templates.CHATML))
    n_rows = len(rows) + sum(why["rows"] for why in source.skipped)
    report = _prepared(request, n_rows, found)
    longest = max(counts["longest"] for counts in (*report["train"].values(), report["eval"]))
    length = min(math.ceil(longest / 64) * 64, max(request.max_lengths))
    told = f"the longest row has {longest:,} tokens"
    found.add("max_length", length, told + ("; longer ones are cut" if longest > length else ""))
    return {**report, "found": asdict(found)}


def _reading(train: Path, found: Found) -> Reading:
    """With the columns that are guessed, where that reads a table which is not read without."""
    table = read_file(train)
    if not converted(table, Reading())[1]:
        return Reading()
    present = list(dict.fromkeys(name for row in table.rows for name in row.columns))
    columns, ignore = guessed(table, present)
    guess = Reading(columns=columns, ignore=ignore)
    if UNKNOWN in columns.values() or converted(table, guess)[1]:
        return Reading()
    found.add(
        "columns", columns, "our name: the file's; a guess, so see the row that a check shows"
    )
    if ignore:
        found.add("ignore", ignore, "the unwanted answers are not learnt from")
    return guess


def _form(rows: Sequence[Example]) -> str:
    return " and ".join(_FORMS[kind] for kind in _kinds(rows))


def _kinds(rows: Sequence[Example]) -> list[str]:
    return [k for k in _FORMS if any(getattr(row, k) is not None for row in rows)]


def _eval(
    train: Path, rows: Sequence[Example], reading: Reading, found: Found
) -> tuple[str | float, Sequence[Example]]:
    """Return a file beside it with its rows, else the share to hold out: of few rows more."""
    file, why, held_out = _beside("eval", train, rows, reading)
    if file is not None:
        found.add("eval", Path(file).name, f"{len(held_out):,} rows")
        return file, held_out
    share = round(min(max(_SHARE, LEAST_SAMPLE_ROWS / len(rows)), _MOST), 2)
    found.add("eval", share, f"held out: {why}")
    return share, ()


def _beside(
    split: str, train: Path, others: Sequence[Example], reading: Reading
) -> tuple[str | None, str, Sequence[Example]]:
    """Return the file that is named as a split's, why there is none, and its rows.

    Args:
        others: The rows of the other splits, which it must not have.
    """
    why = f"no file of {split} rows lies beside"
    for file in _named_so(train, _WORDS_OF[split]):
        try:
            rows = read_examples(str(file), key=f"data.{split}", reading=reading).examples
        except DataError:
            why = f"{file.name} cannot be read as the train rows are"
            continue
        if both := shared_rows(others, rows):
            why = f"{file.name} has {len(both):,} of the train rows"
        elif _kinds(rows) == _kinds(others):
            return str(file), "", rows
        else:
            why = f"{file.name} has {_form(rows)}, unlike the train rows"
    return None, why, ()


def _named_so(train: Path, words: Sequence[str]) -> Iterator[Path]:
    """Files of the same kind that are named as rows of a split, such as `test.jsonl`."""
    own, kind = _words(train), data_suffix(train.name)
    files = sorted(f for f in train.parent.iterdir() if f != train and data_suffix(f.name) == kind)
    for word in words:
        yield from (f for f in files if word in _words(f) and _words(f) - {word} <= own)


def _words(file: Path) -> set[str]:
    return set(re.split(r"[\W_]+", file.name.lower()))


def _needs_template(request: Request, rows: Sequence[Example]) -> bool:
    if not any(row.messages or row.system is not None or row.tools for row in rows):
        return False
    return not reachable(request.model, lambda: load_tokenizer(request.model)).chat_template


def _prepared(request: Request, n_rows: int, found: Found) -> dict[str, Any]:
    """Prepare all rows, else those that can be used, where they are more than half."""
    try:
        return prepare(request)
    except DataError as error:
        reading = replace(request.reading, skip_bad_rows=True)
        try:
            report = prepare(replace(request, reading=reading))
        except DataError:
            raise error from None
        [counts] = report["train"].values()
        n_used = counts["rows"] - counts["dropped"]
        if isinstance(request.eval, float):
            n_used += report["eval"]["rows"] - report["eval"]["dropped"]
        if n_used * 2 < n_rows:
            raise
    found.add("skip_bad_rows", True, f"{n_rows - n_used:,} of {n_rows:,} rows cannot be used")
    return report


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(*sys.argv[1:], work=discover))
