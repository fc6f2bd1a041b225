"""The page: its sections in order, its style and script, and the file."""

import json
from html import escape
from pathlib import Path

from sweep.folder import layout
from sweep.report import about, charts, overfitting, sections
from sweep.report.answers import answers_section
from sweep.results.conclusion import conclude
from sweep.results.confirmed import read_confirmed
from sweep.results.reading import StoredSweep
from trials.whole_file import write_whole

STYLE = """
:root { color-scheme: light dark; --text: #1c2026; --dim: #5c6470; --page: #fff; --line: #dfe3e8;
  --card: #f6f8fa; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e7eb; --dim: #9aa3af; --page: #14171b;
  --line: #333a43; --card: #1d2127; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 68rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .3rem; }
p { margin: .4rem 0; max-width: 48rem; }
.dim { color: var(--dim); }
.headline { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .8rem 1rem; }
.wide { overflow-x: auto; }
.scrolls::before { content: "scrolls sideways \\2192"; position: sticky; left: 0; color: var(--dim);
  font-size: .8rem; }
.wide > .chart { min-width: 640px; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line);
  white-space: nowrap; vertical-align: top; font-variant-numeric: tabular-nums; }
td.words { white-space: normal; min-width: 11rem; }
th { color: var(--dim); font-weight: normal; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr));
  gap: 1rem; }
.grid > * { min-width: 0; }
.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); }
@media (max-width: 40rem) { .small { grid-template-columns: 1fr 1fr; gap: .5rem; } }
figure { margin: .3rem 0; }
figcaption { font-size: .85rem; font-variant-numeric: tabular-nums; }
code { font-size: .9em; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem;
  font-size: .9rem; margin: .6rem 0; }
.facts dd { margin: 0; }
dt { color: var(--dim); }
.commands dd { margin: 0 0 .5rem; }
.parcoords .axis .domain, .parcoords .axis .tick > line { stroke: var(--dim); stroke-opacity: .8; }
.answers { display: grid; gap: .4rem 1.2rem; margin: .2rem 0 1rem; font-size: .9rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 13rem), 1fr)); }
.text { white-space: pre-wrap; max-height: 16rem; overflow-y: auto; }
.prompt { border-top: 1px solid var(--line); padding-top: .6rem; max-width: none; }
.dot { display: inline-block; width: .65em; height: .65em; border-radius: 50%; margin-right: .4em; }
"""
SCRIPT = """
const dark = matchMedia("(prefers-color-scheme: dark)");
const figures = JSON.parse(document.getElementById("figures").textContent);
function draw() {
  const style = getComputedStyle(document.documentElement);
  const text = style.getPropertyValue("--text").trim();
  const line = style.getPropertyValue("--line").trim();
  figures.forEach((figure, i) => {
    const themed = structuredClone(figure);
    const layout = {...themed.layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: {color: text, size: 12}, dragmode: false, autosize: true};
    for (const axis of ["xaxis", "yaxis"])
      if (layout[axis]) Object.assign(layout[axis], {gridcolor: line, zeroline: false});
    for (const trace of themed.data) {
      if (trace.error_x) trace.error_x.color = text;
      if (trace.type === "parcoords" && dark.matches) trace.line.colorscale = trace.meta;
    }
    Plotly.react("chart-" + i, themed.data, layout, {responsive: true, displayModeBar: false});
  });
}
function hint() {
  for (const wide of document.querySelectorAll(".wide"))
    wide.classList.toggle("scrolls", wide.scrollWidth > wide.clientWidth + 1);
}
draw();
hint();
dark.addEventListener("change", draw);
addEventListener("resize", hint);
"""
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; "
    "script-src 'unsafe-inline' 'unsafe-eval'"  # WebGL's programs are made by eval in plotly
)


def write_report(sweep: StoredSweep, path: Path | None = None) -> Path:
    """Write the page, whole or not at all, and return its path.

    Args:
        path: None: report.html in the sweep's folder.

    Raises:
        OSError: The file cannot be written.
    """
    path = path or sweep.folder / layout.REPORT
    write_whole(path, page(sweep))
    return path


def page(sweep: StoredSweep) -> str:
    from plotly.offline import get_plotlyjs

    found = conclude(sweep)
    figures: list[charts.Figure] = []

    def chart(figure: charts.Figure) -> str:
        figures.append(figure)
        return f'<div class="chart" id="chart-{len(figures) - 1}"></div>'

    body = "\n".join(
        [
            about.headline_section(sweep, found),
            about.facts_section(sweep),
            sections.best_ten_section(sweep, found),
            sections.confirmed_section(read_confirmed(sweep)),
            answers_section(sweep),
            overfitting.losses_section(sweep, found, chart),
            overfitting.overfitting_section(sweep, chart),
            sections.curves_section(sweep, found, chart),
            sections.importance_section(sweep, chart),
            sections.slices_section(sweep, chart),
            sections.ends_section(sweep),
            sections.out_of_memory_section(sweep),
            sections.time_section(sweep, chart),
            about.again_section(sweep, found),
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
