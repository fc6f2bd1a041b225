"""`sweep report`: report.html made again."""

from __future__ import annotations

from pathlib import Path

import typer

from sweep.cli.options import Output, SweepName, fail, known_folder

app = typer.Typer()


@app.command()
def report(name: SweepName, output: Output = Path("sweeps")) -> None:
    """Write report.html, one file with charts that works offline, and print its path.

    From the study alone: also while the sweep runs, and after it died. Example: sweep report my
    """
    folder = known_folder(output, name, "sweep.json")

    from sweep.report.sections import write_report

    try:
        path = write_report(folder)
    except OSError as error:
        fail(f"{error.filename or folder}: cannot be written: {error.strerror}.")
    typer.echo(path.resolve())
