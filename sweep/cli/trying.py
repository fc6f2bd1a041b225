"""`sweep try`: the base model and an adapter, asked in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweep.cli.options import Output, SweepName, console, echo, known_folder
from sweep.cli.winner import OtherTrial, best_or

if TYPE_CHECKING:
    from rich.table import Table


def try_(
    name: SweepName,
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="[PROMPT]", help="Default: ask for them.", show_default=False),
    ] = None,
    trial: OtherTrial = None,
    output: Output = Path("sweeps"),
) -> None:
    """Ask the base model and the best adapter, side by side.

    Without a prompt it reads one a line: Ctrl-D ends, Ctrl-C stops an answer. Example: sweep try my
    "Where is my order?". Exit codes: 0 done, 1 there is no best trial, 2 bad input.
    """
    folder = known_folder(output, name)

    from sweep.export.trying import PromptRefused, loaded, raw_prompts

    record = best_or(trial, folder)
    if (template := raw_prompts(record)) is not None:
        echo(f"A prompt goes to the models as it is; training rows had {template!r}.", err=True)
    waiting, names = console(stderr=True), ("base model", f"trial {record.trial.number}")
    status = waiting.status("Loading the models …", spinner="line")
    with status, loaded(record) as models:
        status.stop()
        for asked in _prompts() if prompt is None else [prompt]:
            try:
                with models.stopping():
                    with waiting.status("They answer …", spinner="line"):
                        answers = models.ask(asked)
                    console().print(side_by_side(names, answers), "")
            except PromptRefused as refused:
                if prompt is not None:
                    raise
                echo(refused, err=True)
            except KeyboardInterrupt:  # which came when the answers had just been shown
                if prompt is not None or not sys.stdin.isatty():
                    raise


def _prompts() -> Iterator[str]:
    """Lines that a person types, or of a pipe; empty ones are none."""
    is_typed = sys.stdin.isatty()
    if is_typed:
        import readline  # noqa: F401 - lets `input` edit lines

        echo("Ctrl-D ends, Ctrl-C stops an answer.", err=True)
    with suppress(EOFError):
        while True:
            try:
                line = input("> " if is_typed else "")
            except KeyboardInterrupt:
                if not is_typed:
                    raise
                echo("")  # as in a shell: a new line, and Ctrl-D ends
                continue
            if line.strip():
                if not is_typed:
                    echo(f"> {line}")
                yield line
    if is_typed:
        echo("")


def side_by_side(headings: Sequence[str], texts: Sequence[str]) -> Table:
    """Texts in columns of equal width."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, expand=True, padding=(0, 2, 0, 0), header_style="dim")
    for heading in headings:
        table.add_column(heading, ratio=1, overflow="fold")
    table.add_row(*(Text(text) for text in texts))
    return table
