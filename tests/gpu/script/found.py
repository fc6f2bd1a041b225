"""What a part finds, on disk as soon as it is known: a part may be killed, or die."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from typing import Any


class Missing(Exception):
    """What a part needs is not here."""


def needs(*packages: str) -> None:
    """See that packages are here.

    Raises:
        Missing: With their names.
    """
    if absent := [name for name in packages if util.find_spec(name) is None]:
        raise Missing(f"not here: {', '.join(absent)}")


@dataclass(slots=True)
class Said:
    """All that a part has found."""

    figures: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Found:
    """Where a part writes what it finds.

    Args:
        folder: Of the whole run.
    """

    def __init__(self, folder: Path, part: str) -> None:
        self._path = _path(folder, part)

    def figure(self, name: str, value: Any) -> None:
        """Note a figure; None: there is none here."""
        if value is not None:
            self._write("figure", [name, value])

    def wrong(self, words: str) -> None:
        self._write("wrong", words)

    def missing(self, words: str) -> None:
        """Something of the part could not be tried here."""
        self._write("missing", words)

    def note(self, words: str) -> None:
        """What a reader of the table should know, and is neither wrong nor missing."""
        self._write("note", words)

    def expect(self, holds: bool, words: str) -> None:
        """Note what should hold, and does not."""
        if not holds:
            self.wrong(words)

    def expect_equal(
        self, found: Sequence[float], known: Sequence[float], *, within: float, of: str
    ) -> None:
        """Compare numbers one by one.

        Args:
            within: The relative difference that rounding may make.
        """
        are_near = len(found) == len(known) and all(
            abs(one - other) <= within * abs(other)  # False of NaN
            for one, other in zip(found, known, strict=True)
        )
        words = [", ".join(f"{value:.5g}" for value in values) for values in (found, known)]
        self.expect(are_near, f"{of}: {words[0]} in place of {words[1]} (within {within:g})")

    def _write(self, kind: str, value: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps([kind, value]) + "\n")


def said(folder: Path, part: str) -> Said:
    """Return what a part has found so far."""
    found = Said()
    lists = {"wrong": found.wrong, "missing": found.missing, "note": found.notes}
    path = _path(folder, part)
    for line in path.read_text().splitlines() if path.exists() else ():
        kind, value = json.loads(line)
        if kind == "figure":
            found.figures[value[0]] = value[1]
        else:
            lists[kind].append(value)
    return found


def _path(folder: Path, part: str) -> Path:
    return folder / f"{part}.found.jsonl"
