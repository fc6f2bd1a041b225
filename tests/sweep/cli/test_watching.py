"""What commands that look at a sweep refuse before they read it."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from sweep.cli.commands import app


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--plot"], "--plot: draws one trial, so give its number, such as sweep show mine 7 --pl"),
        (["7", "--plot", "--csv"], "--json, --csv and --plot: the output has one format; give one"),
    ],
)
def test_show_has_one_format_and_plots_one_trial(given: list[str], words: str) -> None:
    done = CliRunner().invoke(app, ["show", "mine", *given])
    assert done.exit_code == 2
    assert words in done.output
