"""Pieces of HTML that several sections use."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from sweep.report import charts


def thinned(n_shown: int, n: int, what: str) -> str:
    return (
        f'<p class="dim">{n_shown:,} of {n:,} {what} drawn: the best, and a sample of the rest.</p>'
    )


def html_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls by itself. Takes HTML: what is in it must be escaped."""
    top = "".join(f"<th>{heading}</th>" for heading in headings)
    classes = ["words" if heading == "reason" else "value" for heading in headings]
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="{kind}">{cell}</td>' for kind, cell in zip(classes, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def outcome_cell(outcome: str) -> str:
    colour = charts.COLOURS[outcome]
    return f'<span class="dot" style="background:{colour}"></span>{outcome_words(outcome)}'


def outcome_words(outcome: str) -> str:
    return escape(outcome.replace("_", " "))


def first_line(reason: str) -> str:
    return (reason.splitlines() or [""])[0]


def value_cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.2g}" if 0 < abs(value) < 0.01 else f"{value:g}"
    return escape(str(value))
