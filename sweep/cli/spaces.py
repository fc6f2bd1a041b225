"""Commands about a space file: `check`, `schema`."""

from pathlib import Path
from typing import Annotated

import typer

from sweep.cli.options import Name, Output, Seed, Sets, SpaceFile, Workers, console, overrides_of
from sweep.cli.watching import print_json
from sweep.folder import layout


def check(
    space: SpaceFile,
    workers: Workers = None,
    name: Name = None,
    output: Output = Path("sweeps"),
    seed: Seed = None,
    mlflow: Annotated[
        str | None,
        typer.Option(help="MLflow server to look for start_from in.", show_default=False),
    ] = None,
    rows: Annotated[
        int, typer.Option(min=0, help="Show this many training rows token by token.")
    ] = 0,
    sets: Sets = None,
) -> None:
    """Check a space, its data and its model; train nothing.

    Shows what would run.
    Example: sweep check my.yaml --rows 3
    """
    import tempfile

    from sweep.driver import preparation
    from sweep.driver.start_from import with_earlier
    from sweep.samplers.choice import check_sampler
    from sweep.space.loading import load_space
    from sweep.workers.devices import wants_gpus

    checked = load_space(space, overrides_of(sets, name, seed))
    check_sampler(checked)
    checked = with_earlier(checked, output, mlflow)
    terminal = console()
    on_gpus = wants_gpus(workers=workers)
    with tempfile.TemporaryDirectory() as scratch:
        found = preparation.prepare_data(
            checked,
            Path(scratch) / layout.DATA,
            on_gpus=on_gpus,
            say=terminal.print,
            show_rows=rows,
        )
    terminal.print(preparation.check_table(checked, found))


def schema(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print all keys as Markdown tables instead.")
    ] = False,
) -> None:
    """Print the JSON schema of SPACE.yaml, or its keys as tables.

    Example: sweep schema > space.schema.json; then, as first line of the file:
    # yaml-language-server: $schema=space.schema.json
    """
    if markdown:
        from sweep.space.schema_tables import tables

        typer.echo(tables(), nl=False)
        return

    from sweep.space.schema import space_schema

    print_json(space_schema())
