"""The commands: words in, words out."""

from typing import Annotated

import typer

from sweep.cli import cluster, machine, running, spaces, steering, trying, watching, winner

app = typer.Typer(
    help="Find good LoRA and QLoRA hyperparameters.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"sweep {version('sweep')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


for command in (  # in the order of `sweep --help`
    machine.doctor,
    spaces.init,
    running.run,
    spaces.check,
    running.trial,
    watching.status,
    steering.stop,
    steering.prune,
    steering.sync,
    watching.ui,
    cluster.submit,
    cluster.attach,
    cluster.fetch,
    running.confirm,
    watching.report,
    watching.list_,
    watching.show,
    winner.best,
    trying.try_,
    watching.compare,
    winner.export,
    steering.clean,
    spaces.schema,
):
    app.command(command.__name__.rstrip("_"))(command)
