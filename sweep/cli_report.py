"""`sweep report`: report.html made again."""

from __future__ import annotations

from pathlib import Path

import typer

from sweep.cli_options import Output, SweepName, fail

app = typer.Typer()


@app.command()
def report(name: SweepName, output: Output = Path("sweeps")) -> None:
    """Write report.html, one file with charts that works offline, and print its path.

    From the study alone: also while the sweep runs, and after it died. Example: sweep report my
    """
    known = sorted(path.parent.name for path in output.glob("*/sweep.json"))
    if name not in known:
        there = f"There are: {', '.join(known)}." if known else "There is none yet."
        fail(f"{(output / name).resolve()}: no such sweep. {there} Look elsewhere with --output.")

    from sweep.report_page import write_report

    try:
        path = write_report(output / name)
    except OSError as error:
        fail(f"{error.filename or output / name}: cannot be written: {error.strerror}.")
    typer.echo(path.resolve())
