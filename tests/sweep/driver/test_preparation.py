"""What `sweep check` says."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from sweep.driver.preparation import Check, check_table, request
from sweep.space.loading import load_space
from sweep.study.task import RowsSoFar
from tests.faults.space_mutants import REPORT


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("{}", "24 trials at most"),
        ("{gpu_hours: 5}", "5 GPU hours at most"),
        ("{trials: 9, hours: 1, gpu_hours: 5}", "9 trials, 1 hour, 5 GPU hours at most"),
        ("{stop_when_flat: 3}", "until 3 trials in a row had no better eval loss"),
        ("{hours: 2, stop_when_flat: 3}", "2 hours at most; until 3 trials in a row had"),
    ],
)
def test_every_limit_of_the_budget_is_told(tmp_path: Path, budget: str, words: str) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    file = tmp_path / "space.yaml"
    file.write_text(
        "base_model: none\ndata: {train: rows.jsonl, eval: 0.1}\nsearch: {rank: [8, 16]}\n"
        f"budget: {budget}\n"
    )
    said = io.StringIO()
    found = Check(tmp_path / "data", REPORT, on_gpus=False)
    Console(file=said, width=200).print(check_table(load_space(file), found))
    [line] = [line for line in said.getvalue().splitlines() if line.startswith("budget")]
    assert words in line


def test_what_is_fixed_is_told_as_the_yaml_has_it(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    file = tmp_path / "space.yaml"
    data = "data: {train: rows.jsonl, eval: 0.1}"
    file.write_text(
        f"base_model: none\n{data}\nsearch: {{rank: [8, 16], alpha: {{times_rank: 2}}}}\n"
    )
    said = io.StringIO()
    found = Check(tmp_path / "data", REPORT, on_gpus=False)
    Console(file=said, width=400).print(check_table(load_space(file), found))
    [line] = [line for line in said.getvalue().splitlines() if line.startswith("fixed")]
    assert "alpha rank × 2," in line and "use_dora false," in line


def test_the_name_of_the_sweep_is_told_first(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    file = tmp_path / "mine.yaml"
    file.write_text("base_model: none\ndata: {train: rows.jsonl, eval: 0.1}\nsearch: {rank: [8]}\n")
    said = io.StringIO()
    found = Check(tmp_path / "data", REPORT, on_gpus=False)
    Console(file=said, width=200).print(check_table(load_space(file), found))
    assert said.getvalue().splitlines()[0].split() == ["sweep", "mine"]


def test_the_text_of_the_template_its_arguments_and_the_studys_date_are_handed_on(
    tmp_path: Path,
) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    (tmp_path / "mine.jinja").write_text("{{ messages }}")
    file = tmp_path / "space.yaml"
    file.write_text(
        "base_model: none\ndata: {train: rows.jsonl, eval: 0.1, chat_template: mine.jinja, "
        "template_arguments: {thinking: false}}\nsearch: {rank: [8, 16]}\n"
    )
    so_far = RowsSoFar(None, None, "2026-01-02")
    asked = request(load_space(file), tmp_path / "data", on_gpus=False, so_far=so_far)
    given = (asked["chat_template"], asked["template_arguments"], asked["date"])
    assert given == ("{{ messages }}", {"thinking": False}, "2026-01-02")


def test_a_check_says_what_is_compared_and_how_many_completions_do_not_fit(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    file = tmp_path / "space.yaml"
    file.write_text(
        "base_model: none\ndata: {train: rows.jsonl, eval: 0.1}\nsearch: {rank: [8]}\n"
        "objective: {metric: exact_match}\n"
    )
    found = {"rows": 64, "max_new_tokens": 32, "longer": 5, "read": "without thoughts"}
    said = io.StringIO()
    check = Check(tmp_path / "data", {**REPORT, "generation": found}, on_gpus=False)
    Console(file=said, width=300).print(check_table(load_space(file), check))
    assert (
        "at most 32 tokens each (5 of the true ones are longer: raise objective.max_new_tokens), "
        "compared without thoughts"
    ) in said.getvalue()


def test_the_check_begins_with_what_is_not_read_and_not_used(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    file = tmp_path / "space.yaml"
    file.write_text("base_model: none\ndata: {train: rows.jsonl, eval: 0.1}\nsearch: {rank: [8]}\n")
    files = [{"name": "a.jsonl", "rows": 30}, {"name": "b.csv", "rows": 10}]
    report = REPORT | {
        "unread": {"id": 24, "messages[].date": 1},
        "skipped": [{"reason": "`output` must not be empty", "rows": 2, "places": "a lines 1, 4"}],
        "own_system": 3,
        "files": {"train": files},
        "reading_notes": ["data.ignore: no column `x`"],
    }
    said = io.StringIO()
    found = Check(tmp_path / "data", report, on_gpus=False)
    Console(file=said, width=200).print(check_table(load_space(file), found))
    lines = [" ".join(line.split()) for line in said.getvalue().splitlines()]
    assert lines[:5] == [
        "sweep space",
        "not read id (24 rows), messages[].date (1 turn)",
        "skipped 2 rows, `output` must not be empty: a lines 1, 4",
        "system own system turns: 3 rows; the others have data.system",
        "train files a.jsonl 30 rows (75.0%), b.csv 10 rows (25.0%)",
    ]
    assert "data.ignore: no column `x`" in lines


def test_large_weights_that_stay_in_16_bits_are_told(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    file = tmp_path / "space.yaml"
    data = "{train: rows.jsonl, eval: 0.1}"
    file.write_text(f"base_model: none\ndata: {data}\nsearch: {{rank: [8, 16]}}\n")
    said = io.StringIO()
    memory = {**REPORT["memory"], "weights_gib": 12.9, "left": {"FalconLinear": 6_650_000_000}}
    found = Check(tmp_path / "data", {**REPORT, "memory": memory}, on_gpus=False)
    Console(file=said, width=200).print(check_table(load_space(file), found))
    words = "leaves these weights in 16 bits, with nf4 too: FalconLinear (12.4 GiB)"
    assert words in said.getvalue()


def test_a_share_that_all_adapters_leave_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    file = tmp_path / "space.yaml"
    data = "{train: rows.jsonl, eval: 0.1}"
    file.write_text(f"base_model: none\ndata: {data}\nsearch: {{rank: [8, 16]}}\n")
    one = {"target": "all-linear", "experts": False, "trained": 9_000, "untouched": 0.2}
    one["modules"] = "attention (2 each of q_proj, o_proj), MLP (2 up_proj)"
    two = {**one, "target": "attention", "modules": "attention (2 each of q_proj, o_proj)"}
    said = io.StringIO()
    found = Check(tmp_path / "data", {**REPORT, "adapters": [one, two]}, on_gpus=False)
    Console(file=said, width=200).print(check_table(load_space(file), found))
    assert "at rank 16, on attention (2 each of q_proj, o_proj)" in said.getvalue()
    assert said.getvalue().count("of the weights are neither adapted nor quantised") == 1
