"""What the report says of the sweep itself: model, data, date, budget, versions."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import pytest

from sweep.report.about import facts_section
from sweep.results.reading import read_sweep
from tests.sweep.reviewed import make_config, point, result, write_sweep

REPORT = {
    "train": {"64": {"rows": 1048, "tokens": 12345, "supervised_tokens": 900}},
    "eval": {"rows": 64, "tokens": 700, "supervised_tokens": 100},
    "sample_rows": 32,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    curve = [point(1, 2.0)]
    ended = (make_config(0), result("completed", curve), curve)
    folder = write_sweep(tmp_path / "mine", [ended])
    about = {"schema": 1, "version": "0.1.0", "libraries": {"torch": "2.13.0", "peft": None}}
    (folder / "sweep.json").write_text(json.dumps(about))
    return folder


def facts(folder: Path) -> dict[str, str]:
    html = facts_section(read_sweep(folder))
    return {k: unescape(v) for k, v in re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", html)}


def test_data_budget_and_versions_are_said(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "report.json").write_text(json.dumps(REPORT))
    found = facts(folder)
    assert found["train"] == "data/train.jsonl: 1,048 rows, 12,345 tokens (900 supervised)"
    assert found["eval"].startswith("data/eval.jsonl: 64 rows, 700 tokens (100 supervised); 32 of")
    assert found["budget"] == "24 trials at most; used: 1 trial, 0.00 GPU hours"
    assert found["versions"] == "sweep 0.1.0, torch 2.13.0"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d to \d\d:\d\d", found["date"])


def test_test_rows_and_what_no_trial_has_varied_are_said(tmp_path: Path) -> None:
    curve = [point(1, 2.0)]
    ended = [(make_config(n), result("completed", curve), curve) for n in range(2)]
    folder = write_sweep(tmp_path / "mine", ended)
    data = "data: {train: a.jsonl, eval: 0.1, test: 0.2}"
    (folder / "space.yaml").write_text(f"base_model: base\n{data}\nsearch: {{rank: [8, 16]}}\n")
    (folder / "data").mkdir()
    (folder / "data" / "report.json").write_text(json.dumps({**REPORT, "test": REPORT["eval"]}))
    found = facts(folder)
    assert found["test"] == "0.2 of train, held out: 64 rows, 700 tokens (100 supervised)"
    assert found["not varied"].endswith(": searched, but no trial has had another value")


@pytest.mark.parametrize("text", [None, "", "a: [", "search: 1"])
def test_what_cannot_be_read_any_more_is_left_out(folder: Path, text: str | None) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "report.json").write_text("{")
    (folder / "space.yaml").unlink()
    if text is not None:
        (folder / "space.yaml").write_text(text)
    assert facts(folder).keys() == {"date", "budget", "versions"}


def test_a_share_held_out_is_told_and_secrets_are_not(folder: Path) -> None:
    data = "data: {train: https://me:hunter2@host/a.jsonl, eval: 0.05, test: t.jsonl}"
    (folder / "space.yaml").write_text(f"base_model: base\n{data}\nsearch: {{rank: [8]}}\n")
    found = facts(folder)
    assert "hunter2" not in found["train"] and "host/a.jsonl" in found["train"]
    assert found["eval"] == "0.05 of train, held out"
    assert found["test"] == "t.jsonl"
