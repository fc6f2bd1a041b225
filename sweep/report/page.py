"""The page: its sections in order, and the file."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from sweep.folder import layout
from sweep.report import charts
from sweep.report.sections import (
    best_ten_section,
    confirmed_section,
    curves_section,
    headline_section,
    importance_section,
    out_of_memory_section,
    overfitting_section,
    slices_section,
    time_section,
)
from sweep.report.style import POLICY, SCRIPT, STYLE
from sweep.results.confirmed import read_confirmed
from sweep.results.reading import StoredSweep
from trials.whole_file import write_whole


def write_report(sweep: StoredSweep) -> Path:
    """Write report.html into the folder of a sweep, whole or not at all, and return its path.

    Raises:
        OSError: The file cannot be written.
    """
    path = sweep.folder / layout.REPORT
    write_whole(path, page(sweep))
    return path


def page(sweep: StoredSweep) -> str:
    from plotly.offline import get_plotlyjs

    figures: list[charts.Figure] = []

    def chart(figure: charts.Figure) -> str:
        figures.append(figure)
        return f'<div class="chart" id="chart-{len(figures) - 1}"></div>'

    body = "\n".join(
        [
            headline_section(sweep),
            best_ten_section(sweep),
            confirmed_section(read_confirmed(sweep)),
            curves_section(sweep, chart),
            importance_section(sweep, chart),
            slices_section(sweep, chart),
            overfitting_section(sweep, chart),
            out_of_memory_section(sweep),
            time_section(sweep, chart),
        ]
    )
    # `<` would end the element that the figures are in, wherever a value holds `</script>`.
    in_json = json.dumps(figures, allow_nan=False).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(sweep.name)}: sweep report</title>
<style>{STYLE}</style>
</head>
<body>
{body}
<script type="application/json" id="figures">{in_json}</script>
<script>{get_plotlyjs()}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""
