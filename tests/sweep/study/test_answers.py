"""Answers to held-out prompts: who is asked, who is not asked again, and what is shown of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from sweep.driver import loop
from sweep.errors import StudyError
from sweep.report.answers import answers_section
from sweep.results.answers import answers_table, answers_text, as_records, who_answers, write_table
from sweep.results.reading import read_sweep
from sweep.study.answers import answering, forget_answers
from sweep.study.budget import Budget
from tests.inline_runner import InlineRunner
from tests.sweep.reviewed import make_config, measured, result, write_sweep
from trials.config import Report, TrialConfig, TrialResult

ROWS = np.linspace(10.0, 30.0, 16)
PROMPTS = ["Where is it?", "[bold]<b>Who?</b>"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three trials: the second is the best, then the first; and two prompts."""
    curves = [[measured(4, ROWS + shift)] for shift in (0.5, 0.0, 9.0)]
    trials = [(make_config(n), result("completed", c), c) for n, c in enumerate(curves)]
    folder = write_sweep(tmp_path / "mine", trials)
    write_prompts(folder, PROMPTS)
    return folder


def write_prompts(folder: Path, prompts: Sequence[str]) -> None:
    (folder / "data").mkdir(exist_ok=True)
    asked = {"rows": [{"prompt": p} for p in prompts], "references": ["true"] * len(prompts)}
    (folder / "data" / "generation.answers.json").write_text(json.dumps(asked))


def ask(folder: Path, trials: Sequence[int], written: str = "of {name}") -> list[str]:
    """Have trials answer; returns who was asked."""
    final = answering(folder, {number: make_config(number) for number in trials})
    names = []

    def trial(config: TrialConfig, report: Report) -> TrialResult:
        assert config.answers and config.model.backend == "transformers"
        name = Path(config.output_dir).name
        assert bool(config.measured_adapter) == (name != "base")
        names.append(name)
        asked = json.loads((folder / "data" / "generation.answers.json").read_text())
        prompts = [row["prompt"] for row in asked["rows"]]
        found = {
            "prompts": prompts,
            "true": asked["references"],
            "written": [written.format(name=name)] * len(prompts),
        }
        (Path(config.output_dir) / "answers.json").write_text(json.dumps(found))
        return TrialResult(outcome="completed", reason="Answered.")

    if final.n_to_do:
        loop.run(final, InlineRunner(trial), Budget(None, None))
    return names


def test_the_winner_and_the_second_answer_once(folder: Path) -> None:
    assert [trial.number for trial in who_answers(read_sweep(folder))] == [1, 0]
    assert ask(folder, [1, 0]) == ["001", "000", "base"]
    assert ask(folder, [1, 0]) == []
    assert ask(folder, [1, 2]) == ["002"]


def test_other_prompts_are_asked_anew(folder: Path) -> None:
    ask(folder, [1, 0])
    write_prompts(folder, PROMPTS[:1])
    assert ask(folder, [1, 0]) == ["001", "000", "base"]


def test_they_stand_side_by_side(folder: Path) -> None:
    ask(folder, [1, 0])
    found = answers_table(read_sweep(folder))
    assert found is not None
    assert found.columns == [
        *("prompt", "in the data", "base model", "trial 1 (winner)", "trial 0 (second)")
    ]
    assert found.rows == [[prompt, "true", "of base", "of 001", "of 000"] for prompt in PROMPTS]
    assert as_records(read_sweep(folder))[0]["trial 1 (winner)"] == "of 001"
    path = write_table(read_sweep(folder))
    assert path is not None
    assert json.loads(path.read_text()) == {"columns": found.columns, "data": found.rows}


def test_foreign_text_is_cleaned_and_no_markup(folder: Path) -> None:
    ask(folder, [1, 0], "\x1b[31m<script>{name}")
    html = answers_section(read_sweep(folder))
    assert "\ufffd[31m&lt;script&gt;001" in html and "<script>" not in html and "<b>" not in html
    console = Console(width=80, record=True, markup=True)
    console.print(answers_text(read_sweep(folder)))
    shown = console.export_text()
    assert "[bold]<b>Who?</b>" in shown and "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_answers_of_others_than_the_winner_are_not_shown(folder: Path) -> None:
    ask(folder, [0, 2])
    assert answers_table(read_sweep(folder)) is None
    assert answers_section(read_sweep(folder)) == ""
    assert write_table(read_sweep(folder)) is None


def test_without_a_second_the_winner_stands_alone(folder: Path) -> None:
    ask(folder, [1])
    found = answers_table(read_sweep(folder))
    assert found is not None and len(found.columns) == 4


def test_none_are_left_where_none_are_wanted(folder: Path) -> None:
    ask(folder, [1, 0])
    write_table(read_sweep(folder))
    assert forget_answers(folder)
    assert not (folder / "answers").exists() and not (folder / "answers.json").exists()
    assert not forget_answers(folder)


@pytest.mark.parametrize("text", ["", "[]", '{"prompts": []}'])
def test_a_broken_file_is_refused_in_words(folder: Path, text: str) -> None:
    ask(folder, [1, 0])
    (folder / "answers" / "001" / "answers.json").write_text(text)
    with pytest.raises(StudyError, match=r"answers\.json: must hold answers to prompts"):
        answers_table(read_sweep(folder))
