"""The command about this machine: `doctor`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sweep.cli.options import Output, Workers, console, print_json


def doctor(
    train: Annotated[
        bool, typer.Option("--train", help="Train two short trials on each GPU, too.")
    ] = False,
    workers: Workers = None,
    output: Output = Path("sweeps"),
    as_json: Annotated[bool, typer.Option("--json", help="Print it for programs.")] = False,
) -> None:
    """See whether this machine can train, and what to fix.

    GPUs and who uses them, driver, torch, bitsandbytes, flash-attn, Unsloth, Ray, disk and cache.
    --train compares the built-in model's loss with the known one, too, and measures the pace.
    Example: sweep doctor --train. Exit codes: 0 ready, 1 it runs, but slower than it could, 2 it
    cannot run.
    """
    from sweep.driver import doctor as machine
    from trials.machine.finding import GRADES

    terminal = console()
    with console(stderr=True).status("Looking at this machine …") as status:
        found = machine.look(workers=workers, output=output, trains=train, say=status.update)
    grade = machine.worst(found)
    if as_json:
        print_json({"grade": grade, "findings": [asdict(finding) for finding in found]})
    else:
        terminal.print(machine.as_table(found))
    raise typer.Exit(GRADES.index(grade))
