"""`sweep report` makes the page of any sweep that has begun."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import optuna

from sweep.storage.patient import storage_url


def sweep_report(name: str, output: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sweep", "report", name, "--output", str(output)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_prints_the_path_of_what_it_wrote(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "sweep.json").write_text("{}")
    study = optuna.create_study(study_name="tiny", storage=storage_url(folder))
    study.ask().set_user_attr("hyperparameters", {"rank": 8})
    done = sweep_report("tiny", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder / "report.html")
    assert "<title>tiny: sweep report</title>" in (folder / "report.html").read_text()


def test_an_unknown_sweep_is_named_with_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "sweep.json").write_text("{}")
    done = sweep_report("tinny", tmp_path)
    assert done.returncode == 2
    assert "no such sweep. There are: tiny." in done.stderr
    assert "Traceback" not in done.stderr
