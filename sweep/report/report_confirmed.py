"""What `sweep confirm` has found, as a part of report.html."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from sweep.confirm.confirmation import Confirmed
from sweep.results.confirmed_words import verdicts

Table = Callable[[Sequence[str], Sequence[Sequence[str]]], str]
"""Headings and rows, both HTML → HTML."""


def confirmed_section(found: Sequence[Confirmed], table: Table) -> str:
    """Return the means of the configurations and the verdicts; nothing where there is none."""
    if not found:
        return ""
    rows = []
    for each in found:
        mean = each.mean
        error = None if mean is None else mean.standard_error
        cells = ["0", ""] if mean is None else [str(mean.n), f"{mean.mean:.4f}"]
        cells.append("" if error is None else f"{error:.4f}")
        cells.append("  ".join(f"{value:.4f}" for value in each.values.values()))
        rows.append([f"{each.trial:03d}", *cells])
    words = "".join(f"<li>{escape(line)}</li>" for line in verdicts(found))
    return (
        "<h2>The best again, with other seeds</h2><p>Where an order is noise, take the cheaper "
        "one. An eval loss here is over all eval rows, so it is not that of the sweep.</p>"
        + table(["trial", "seeds", "mean", "± standard error", "each seed"], rows)
        + f"<ul>{words}</ul>"
    )
