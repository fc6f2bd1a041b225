"""The page: its sections in order, and the file."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from sweep.folder import layout
from sweep.report import charts
from sweep.report.html import html_table
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
from sweep.results.sweep_data import Data, read_data
from trials.whole_file import write_whole


def write_report(folder: Path, data: Data | None = None) -> Path:
    """Write report.html into the folder of a sweep, whole or not at all, and return its path.

    Args:
        data: What there is of the sweep, where it has been read.

    Raises:
        StudyError: There is no study, or it cannot be read.
        OSError: The file cannot be written.
    """
    path = folder / layout.REPORT
    write_whole(path, page(data or read_data(folder)))
    return path


def page(data: Data) -> str:
    from plotly.offline import get_plotlyjs

    figures: list[charts.Figure] = []

    def chart(figure: charts.Figure) -> str:
        figures.append(figure)
        return f'<div class="chart" id="chart-{len(figures) - 1}"></div>'

    body = "\n".join(
        [
            headline_section(data),
            best_ten_section(data),
            confirmed_section(data.confirmed, html_table),
            curves_section(data, chart),
            importance_section(data, chart),
            slices_section(data, chart),
            overfitting_section(data, chart),
            out_of_memory_section(data),
            time_section(data, chart),
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
<title>{escape(data.name)}: sweep report</title>
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
