"""The tables of keys, made from where the keys are defined."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from sweep.cli.commands import app
from sweep.space.hyperparameters import HYPERPARAMETERS
from sweep.space.schema import BEGIN, END, tables
from sweep.space.settings import UNSET, Settings

PAGE = Path(__file__).parents[3] / "search_spaces" / "README.md"


def test_the_page_has_the_tables_as_they_are_now() -> None:
    text = PAGE.read_text(encoding="utf-8")
    there = text[text.index(BEGIN) : text.index(END) + len(END) + 1]
    assert there == tables(), f"put `sweep schema --markdown` between {BEGIN} and {END}"


def test_every_key_has_a_line_with_type_default_and_meaning() -> None:
    rows = [line.split(" | ") for line in tables().splitlines() if line.startswith("| `")]
    assert all(len(row) == 4 and all(cell.strip("| ") for cell in row) for row in rows)
    keys = {row[0].strip("| `") for row in rows}
    sections = {"data", "budget", "evaluate", "objective", "pruning"}
    names = {field.alias or name for name, field in Settings.model_fields.items()}
    assert names - sections | set(HYPERPARAMETERS) | set(UNSET) <= keys
    assert {"data.train", "pruning.overfit", "pruning.overfit.patience"} <= keys


def test_the_command_prints_them() -> None:
    assert CliRunner().invoke(app, ["schema", "--markdown"]).stdout == tables()
