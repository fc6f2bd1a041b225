"""`sweep confirm`: the best trials again, with other seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sweep.cli.options import Gpus, Output, SweepName, Workers, console, fail, known_folder

app = typer.Typer()


@app.command()
def confirm(
    name: SweepName,
    top: Annotated[int, typer.Option(min=1, help="So many of the best trials.")] = 3,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each, with other seeds.")] = 3,
    workers: Workers = None,
    gpus: Gpus = None,
    mlflow: Annotated[
        str | None,
        typer.Option(
            help="The sweep's MLflow server, where it wants a password.", show_default=False
        ),
    ] = None,
    output: Output = Path("sweeps"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what is known, for programs; runs nothing.")
    ] = False,
) -> None:
    """Train the best trials again with other seeds, on all eval rows: is the order noise?

    Says mean ± standard error of each, and which differences are beyond noise. The same command
    goes on where it was stopped; more --seeds or --top add runs. Example: sweep confirm my --top 3
    --seeds 3. Exit codes: 0 done, 1 runs failed, 2 bad input, 130 interrupted.
    """
    if workers is not None and gpus is not None:
        fail("--workers and --gpus: trials run on processors or on GPUs; give one of the two.")
    folder = known_folder(output, name, "sweep.json")

    from sweep.confirm.confirmation import read_confirmed
    from sweep.results import confirmed_words

    if as_json:
        found = confirmed_words.as_json(name, read_confirmed(folder))
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False))
        return

    from sweep.confirm.run import Options
    from sweep.confirm.run import confirm as run

    options = Options(top=top, seeds=seeds, workers=workers, gpus=gpus, mlflow=mlflow)
    raise typer.Exit(run(folder, options, console()))
