"""What `sweep check` says."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from sweep.driver.preparation import Check, check_table
from sweep.space.loading import load_space
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
