"""`sweep doctor`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweep.driver.doctor import as_table, judged, look, worst
from trials.machine.finding import Finding
from trials.train_check import BASE_LOSS

READY = Finding("torch", "2.13.0")
SLOWER = Finding("Unsloth", "not installed", "Install it.", "slower")
CANNOT = Finding("driver", "does not answer", "Start it anew.", "cannot")


def doctor(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sweep", "doctor", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_worst_finding_decides() -> None:
    assert worst([READY]) == "ready"
    assert worst([SLOWER, READY]) == "slower"
    assert worst([READY, CANNOT, SLOWER]) == "cannot"


def test_each_thing_has_a_line_with_its_mend() -> None:
    with (console := Console(width=100)).capture() as captured:
        console.print(as_table([READY, SLOWER, CANNOT]))
    lines = [line.rstrip() for line in captured.get().splitlines()]
    assert lines == [
        "✓  torch    2.13.0",
        "!  Unsloth  not installed. Install it.",
        "✗  driver   does not answer. Start it anew.",
        "",
        "It cannot run: mend what has a ✗.",
    ]


def test_a_machine_that_trains_on_processors_as_asked_is_ready(tmp_path: Path) -> None:
    done = doctor("--workers", "1", "--json", "--output", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["grade"] == "ready"
    subjects = {finding["subject"] for finding in found["findings"]}
    assert {"Python", "packages", "torch", "bitsandbytes", "Ray", "disk", "cache"} <= subjects


def test_a_cache_that_cannot_be_used_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sweep", f"sweep-{os.geteuid()}"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = doctor("--workers", "1", "--json")
    assert done.returncode == 2, done.stdout + done.stderr
    (cache,) = [f for f in json.loads(done.stdout)["findings"] if f["grade"] == "cannot"]
    assert cache["found"].startswith("The cache must be your own, but ")
    assert cache["found"].endswith(" belong to others, or can be written by all")
    assert cache["mend"] == "Set XDG_CACHE_HOME to a folder of yours."


def found_with(address: str, monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr("sweep.driver.doctor._answer", lambda *_: {"findings": []})
    monkeypatch.setattr("sweep.driver.doctor.sees_gpus", lambda: False)
    return look(workers=None, output=Path(), trains=False, say=lambda _: None)


def test_a_cluster_that_does_not_answer_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    output, cluster = found_with("nowhere", monkeypatch)  # and no word on this machine's GPUs
    assert output.subject == "output"
    assert (cluster.subject, cluster.grade) == ("RAY_ADDRESS", "cannot")
    assert cluster.found == (
        "must be where a Ray cluster runs, such as head:6379, but is 'nowhere': Invalid address "
        "format: nowhere"
    )
    assert cluster.mend is not None
    assert cluster.mend.startswith("Start the cluster, mend the address, or unset it")


def test_a_cluster_that_answers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.workers.connection.check_address", lambda: None)
    _, cluster = found_with("head:6379", monkeypatch)
    words = "head:6379: sweeps run on that cluster, not on this machine"
    assert cluster == Finding("RAY_ADDRESS", words)


def answer(*losses: float) -> dict[str, Any]:
    def point(index: int, loss: float) -> dict[str, Any]:
        return {"index": index, "eval_loss": loss, "tokens_per_second": 1234.5}

    trials = [{"points": [point(0, loss), point(1, 1.0)]} for loss in losses]
    return {"trials": trials, "known": 2.0, "left_mib": 0.0}


@pytest.mark.parametrize(
    ("losses", "grade"),
    [((2.0, 2.01), "ready"), ((2.0, 2.03), "cannot"), ((float("nan"), 2.0), "cannot")],
)
def test_a_base_loss_that_is_not_the_known_one_cannot_run(
    losses: tuple[float, ...], grade: str
) -> None:
    assert judged("training", "transformers", answer(*losses)).grade == grade


@pytest.mark.long
def test_two_trials_have_the_known_base_loss() -> None:
    done = doctor("--train", "--workers", "1", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    trained = json.loads(done.stdout)["findings"][-1]
    assert trained["subject"] == "training on processors"
    assert f", known {BASE_LOSS:.4f}; " in trained["found"]
