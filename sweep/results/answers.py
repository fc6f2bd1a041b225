"""What the base model, the winner and the second have answered to held-out prompts."""

import json
from dataclasses import dataclass
from pathlib import Path

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from sweep.folder import layout
from sweep.results.certainty import Judge
from sweep.results.conclusion import conclude
from sweep.results.reading import StoredSweep
from sweep.study.answers import read_answers
from sweep.study.ended import StoredTrial
from trials.whole_file import write_whole

MOST_CHARACTERS = 300
"""Of a text in the terminal; the report has all."""


@dataclass(frozen=True, slots=True)
class AnswersTable:
    """A row for each prompt: the prompt, what stood in the data, what each model has written."""

    columns: list[str]
    rows: list[list[str]]


def who_answers(sweep: StoredSweep) -> list[StoredTrial]:
    """Return the winner and the second; none: no trial has a value that counts."""
    found = conclude(sweep)
    if found is None:
        return []
    others = [each for each in Judge(sweep).ranked if each.number != found.winner.number]
    return [found.winner, *others[:1]]


def answers_table(sweep: StoredSweep) -> AnswersTable | None:
    """Return what was answered; None: nothing, or not by today's winner.

    Raises:
        StudyError: A file cannot be read.
    """
    base = read_answers(sweep.folder, None)
    trials = [trial.number for trial in who_answers(sweep)] if base else []
    found = {number: read_answers(sweep.folder, number) for number in trials}
    there = {n: a for n, a in found.items() if a and base and a.prompts == base.prompts}
    if base is None or not trials or trials[0] not in there:
        return None
    places = dict(zip(trials, ("winner", "second"), strict=False))
    named = [f"trial {number} ({places[number]})" for number in there]
    columns = ["prompt", "in the data", "base model", *named]
    written = [answers.written for answers in (base, *there.values())]
    rows = zip(base.prompts, base.true, *written, strict=True)
    return AnswersTable(columns, [list(row) for row in rows])


def write_table(sweep: StoredSweep) -> Path | None:
    """Write the table as MLflow has tables, and return its path; None: there is none."""
    path, found = sweep.folder / layout.ANSWERS_TABLE, answers_table(sweep)
    if found is None:
        path.unlink(missing_ok=True)
        return None
    written = {"columns": found.columns, "data": found.rows}
    write_whole(path, json.dumps(written, ensure_ascii=False))
    return path


def as_records(sweep: StoredSweep) -> list[dict[str, str]]:
    """For programs: an object for each prompt, its keys the headings of the table."""
    found = answers_table(sweep)
    return [dict(zip(found.columns, row, strict=True)) for row in found.rows] if found else []


def answers_text(sweep: StoredSweep) -> RenderableType | None:
    """The same for a terminal, one below the other; long texts end early. None: there is none."""
    found = answers_table(sweep)
    if found is None:
        return None
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for row in found.rows:
        for heading, text in zip(found.columns, row, strict=True):
            table.add_row(heading, Text(_brief(text)), style="bold" if heading == "prompt" else "")
        table.add_row()
    return table


def _brief(text: str) -> str:
    text = text.strip()
    if len(text) > MOST_CHARACTERS:
        text = f"{text[:MOST_CHARACTERS].rstrip()} …"
    return " ".join(text.split())
