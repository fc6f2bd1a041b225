"""Rows that cannot be used, by kind: with a count and the first places."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from trials.config import DataError

MOST_PLACES = 5
SKIP = "leave such rows out with data.skip_bad_rows: true"


class BadRow(DataError):
    """What is wrong with one row, its place apart."""

    def __init__(self, rule: str, found: str | None = None) -> None:
        super().__init__(rule if found is None else f"{rule}, found {found}")
        self.kind = re.sub(r"\bturn \d+", "a turn", rule)
        self.found = found


class NothingLearnt(BadRow):
    """A row that its own weights leave out: told, and no error."""


@dataclass(slots=True)
class _Kind:
    found: str | None
    """In the first of them."""
    sentence: str
    """Of the first, with its place."""
    is_meant: bool
    positions: list[str] = field(default_factory=list)


@dataclass(slots=True)
class BadRows:
    """Those of one table."""

    title: str
    kinds: dict[str, _Kind] = field(default_factory=dict)

    def add(self, position: str, bad: BadRow) -> None:
        """Take a row, such as `line 17`, and what is wrong with it."""
        known = self.kinds.get(bad.kind)
        if known is None:
            sentence = f"{position} of {self.title}: {bad}"
            known = _Kind(bad.found, sentence, isinstance(bad, NothingLearnt))
            self.kinds[bad.kind] = known
        known.positions.append(position)

    def problems(self) -> Iterator[str]:
        """A sentence for each kind, but for rows that are meant to be left out."""
        for rule, kind in self.kinds.items():
            n = len(kind.positions)
            if kind.is_meant:
                continue
            if n == 1:
                stop = "" if kind.sentence.endswith((".", ".'")) else "."
                yield f"{kind.sentence}{stop} Fix or remove that row, or {SKIP}."
                continue
            first = "" if kind.found is None else f", found {kind.found} in the first"
            yield (
                f"{n:,} rows of {self.title}: {rule}{first}: {places(kind.positions)}. "
                f"Fix or remove them, or {SKIP}."
            )

    def in_short(self) -> str:
        return "; ".join(f"{reason}: {places(k.positions)}" for reason, k in self.kinds.items())

    def report(self) -> list[dict[str, Any]]:
        """The kinds for a report, as what was left out."""
        return [
            {
                "reason": reason,
                "rows": len(kind.positions),
                "places": f"{self.title} {places(kind.positions)}",
            }
            for reason, kind in self.kinds.items()
        ]


def places(positions: Sequence[str]) -> str:
    """Return `rows 1, 4, 7, 10, 13 and 3 more`."""
    unit, _, first = positions[0].partition(" ")
    numbers = [first, *(p.rpartition(" ")[2] for p in positions[1:MOST_PLACES])]
    more = f" and {len(positions) - MOST_PLACES:,} more" if len(positions) > MOST_PLACES else ""
    return f"{unit}{'s' if len(positions) > 1 else ''} {', '.join(numbers)}{more}"
