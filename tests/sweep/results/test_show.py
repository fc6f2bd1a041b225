"""`sweep show`: all trials of a sweep in an order, and one with all that is known of it."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from sweep.errors import StudyError
from sweep.results.reading import read_sweep
from sweep.results.show import (
    Sort,
    all_as_csv,
    all_as_json,
    all_in_words,
    one_as_csv,
    one_as_json,
    one_in_words,
    plotted,
)
from sweep.results.trial_record import record_of
from tests.sweep.reviewed import make_config, point, result, write_sweep


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A trial that completed, a quicker and better one that overfitted, and one that failed."""
    slow = [point(1, 2.0), point(4, 1.7)]
    quick = [point(1, 1.8), point(2, 1.5), point(3, float("inf"))]
    failed = result("failed", [], training_seconds=0.0, evaluation_seconds=0.5, best=None)
    folder = write_sweep(
        tmp_path / "mine",
        [
            (make_config(0), result("completed", slow, training_seconds=90.0), slow),
            (make_config(1), result("overfit", quick), quick),
            (make_config(2), failed, []),
        ],
    )
    (folder / "trials" / "002" / "log.txt").write_text("begins\nRuntimeError: broken\n")
    (folder / "trials" / "000" / "adapter").mkdir()
    (folder / "trials" / "000" / "adapter" / "adapter_config.json").write_text("{}")
    return folder


def printed(what: RenderableType) -> str:
    console = Console(width=120, record=True)
    console.print(what)
    return console.export_text()


def test_nothing_is_cut_off_at_80_columns(tmp_path: Path) -> None:
    curve = [point(1, 12.3456)]
    config = replace(make_config(0), learning_rate=0.000147294)
    ended = [(config, result("out_of_memory", curve), curve)]
    console = Console(width=80, record=True)
    console.print(all_in_words(read_sweep(write_sweep(tmp_path / "mine", ended)), "number"))
    words = console.export_text()
    assert "0.000147" in words and "out_of_memory" in words and "…" not in words


@pytest.mark.parametrize(
    ("sort", "numbers"), [("eval_loss", [1, 0, 2]), ("number", [0, 1, 2]), ("seconds", [2, 1, 0])]
)
def test_all_trials_in_an_order(folder: Path, sort: Sort, numbers: list[int]) -> None:
    found = all_as_json(read_sweep(folder), sort)
    assert [trial["number"] for trial in found["trials"]] == numbers
    words = printed(all_in_words(read_sweep(folder), sort))
    rows = [line for line in words.splitlines() if line[:1] == "0"]
    assert [int(line[:3]) for line in rows] == numbers
    assert "1:31" in words


def test_one_trial_has_its_curve_and_its_files(folder: Path) -> None:
    words = printed(one_in_words(record_of(read_sweep(folder), 0)))
    assert "mine, trial 0: completed" in words
    assert "Took 1:31." in words
    [best] = [line for line in words.splitlines() if line.rstrip().endswith("best")]
    assert best.split() == ["40", "2.00", "1.7000", "1.0000", "1.00e-03", "0.5", "1,234", "best"]
    assert "trials/000/adapter" in words


def test_a_failed_trial_shows_the_end_of_its_log_once(folder: Path) -> None:
    words = printed(one_in_words(record_of(read_sweep(folder), 2)))
    assert "It is failed." in words
    assert words.count("RuntimeError: broken") == 1
    assert "none on this disk" in words


def test_a_trial_is_json_without_infinity(folder: Path) -> None:
    found = json.loads(json.dumps(one_as_json(record_of(read_sweep(folder), 1)), allow_nan=False))
    assert [each["eval_loss"] for each in found["curve"]] == [1.8, 1.5, None]
    assert (found["outcome"], found["config"]["rank"]) == ("overfit", 8)


def test_what_is_adapted_is_a_column_where_trials_differ_in_it(tmp_path: Path) -> None:
    curve = [point(1, 2.0)]
    of_two = replace(make_config(1), target_modules="q_proj,v_proj")
    trials = [
        (make_config(0), result("completed", curve), curve),
        (of_two, result("completed", curve), curve),
    ]
    words = printed(all_in_words(read_sweep(write_sweep(tmp_path / "two", trials)), "number"))
    assert "modules" in words
    assert "[q_proj, v_proj]" in words
    assert "experts" not in words
    same = write_sweep(tmp_path / "one", trials[:1])
    assert "modules" not in printed(all_in_words(read_sweep(same), "number"))


@pytest.mark.parametrize("text", ["", "[1]", '"a"', "null", "[" * 9999])
def test_a_configuration_that_cannot_be_read_is_told(folder: Path, text: str) -> None:
    (folder / "trials" / "000" / "config.json").write_text(text)
    with pytest.raises(StudyError, match=r"config\.json: must hold a trial's configuration, but"):
        record_of(read_sweep(folder), 0)


def test_trials_are_a_table_for_a_spreadsheet(folder: Path) -> None:
    rows = list(csv.DictReader(all_as_csv(read_sweep(folder), "eval_loss").splitlines()))
    assert [row["number"] for row in rows] == ["1", "0", "2"]
    assert [row["eval_loss"] for row in rows] == ["1.5", "1.7", ""]
    assert (rows[2]["reason"], rows[2]["rank"]) == ("It is failed.", "8")  # without its log


def test_the_evaluations_of_a_trial_are_one_too(folder: Path) -> None:
    text = one_as_csv(record_of(read_sweep(folder), 0))
    rows = list(csv.DictReader(text.splitlines()))
    assert [(row["step"], row["eval_loss"]) for row in rows] == [("10", "2.0"), ("40", "1.7")]
    assert "row_nlls" not in rows[0]


def test_a_trial_is_drawn_with_why_it_ended(folder: Path) -> None:
    words = printed(plotted(record_of(read_sweep(folder), 0), 80))
    assert "mine, trial 0: completed" in words and "It is completed." in words
    assert "2.0000 │" in words and "@ best evaluation" in words
    assert "No evaluation yet" in printed(plotted(record_of(read_sweep(folder), 2), 80))
