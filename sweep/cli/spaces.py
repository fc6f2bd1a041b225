"""Commands about a space file: `init`, `check`, `schema`."""

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from sweep.cli.options import (
    Name,
    Output,
    Seed,
    Sets,
    SpaceFile,
    Workers,
    console,
    echo,
    fail,
    overrides_of,
    print_file,
    print_json,
    print_yaml,
)
from sweep.cli.space_file import load_file
from sweep.folder import layout
from trials.whole_file import write_new


def init(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A file of training rows.")],
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE.yaml]",
            help="Where to write; - prints. Default: beside DATA.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="The base model: a hub id or a folder.")
    ] = "smollm2-135m",
    chat_template: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A known chat template, or a .jinja file of yours.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a space for your rows, which `sweep check` passes.

    Finds their form, eval rows beside them and their length; writes NAME.yaml, never over a file.
    NAME is that of DATA, or of its folder if DATA is called train or data. Where the model's chat
    template leaves out tools or their calls, name one that has them: --chat-template chatml.
    Example: sweep init orders/train.jsonl --model Qwen/Qwen2.5-1.5B-Instruct
    """
    from sweep.driver.new_space import new_space, usual_path
    from sweep.workers.devices import wants_gpus

    path = usual_path(data) if file in (None, "-") else Path(str(file))
    if file != "-" and os.path.lexists(path):
        fail(
            f"{path}: is there already, and is never written over. Name another: "
            f"sweep init {data} my.yaml, or print it with `-`."
        )
    say = console(stderr=True).print
    text = new_space(data, path, model, chat_template, on_gpus=wants_gpus(workers=None), say=say)
    if file == "-":
        print_yaml(text)
        return
    write_new(path, text)
    shown = shlex.quote(str(path))
    echo(f"Wrote {path}. Look at it, then: sweep check {shown}; sweep run {shown}")


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
    measure: Annotated[
        bool, typer.Option("--measure", help="Take ten steps, to tell how long the sweep takes.")
    ] = False,
    sets: Sets = None,
) -> None:
    """Check a space, its data and its model; train nothing.

    Shows what would run, and how long that takes as far as earlier trials here tell.
    Example: sweep check my.yaml --rows 3
    """
    from sweep.driver import preparation
    from sweep.driver.length import Length
    from sweep.driver.start_from import with_earlier
    from sweep.samplers.choice import check_sampler
    from sweep.tracking.destination import destination
    from sweep.workers.devices import wants_gpus
    from trials.unfinished import scratch_dir

    checked = load_file(space, overrides_of(sets, name, seed))
    check_sampler(checked)
    tracked = destination(output / checked.name, mlflow)
    checked = with_earlier(checked, output, tracked.asked)
    terminal = console()
    if tracked.words:
        terminal.print(tracked.words)
    on_gpus = wants_gpus(workers=workers)
    length = Length(checked, on_gpus=on_gpus, workers=workers)
    if measure:
        length.see_place()
    with scratch_dir() as scratch:
        found = preparation.prepare_data(
            checked,
            Path(scratch) / layout.DATA,
            on_gpus=on_gpus,
            say=terminal.print,
            show_rows=rows,
        )
        terminal.print(preparation.check_table(checked, found))
        if measure:
            length.measure(found, say=terminal.print)
    terminal.print(f"\n{length.in_words(found)}")


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
        from sweep.space.schema import tables

        print_file(tables())
        return

    from sweep.space.schema import space_schema

    print_json(space_schema())
