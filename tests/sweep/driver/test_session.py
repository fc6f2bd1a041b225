"""`sweep run` from end to end, without Ray and without data. Of `confirm`: confirm/test_run.py."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import pytest
from rich.console import Console

from sweep.driver import preparation, recording
from sweep.driver.job import Options
from sweep.driver.run import run
from sweep.folder import layout
from sweep.folder.requests import ask_to_stop
from sweep.report.page import write_report
from sweep.results.reading import StoredSweep, read_sweep
from sweep.space.loading import load_space
from tests.faults.space_mutants import REPORT

pytestmark = pytest.mark.filterwarnings(
    # SQLAlchemy 2.1 warns of a loader that MLflow 3.17 uses in its own tables.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)

FOUND = {
    **REPORT,
    **dict.fromkeys(("train_fingerprint", "eval_fingerprint", "tokenizer", "chat"), "x"),
}


def ran(folder: Path) -> tuple[int, str]:
    """Run a sweep of two trials; the exit code and what was said."""
    (folder / "rows.jsonl").write_text("{}")
    file = folder / "tiny.yaml"
    file.write_text(
        "base_model: none\ndata: {train: rows.jsonl, eval: 0.1}\nsearch: {rank: [8, 16]}\n"
        "evaluate: {times: 4}\nbudget: {trials: 2}\n"
    )
    said = io.StringIO()
    options = Options(output=folder / "sweeps", workers=1, gpus=None, mlflow=None)
    return run(load_space(file), options, Console(file=said, width=200)), said.getvalue()


@pytest.fixture(autouse=True)
def prepared(without_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = preparation.Check(Path("data"), FOUND, on_gpus=False)
    monkeypatch.setattr(preparation, "prepare_data", lambda *_, **__: found)


def test_on_a_full_disk_it_pauses_and_goes_on_by_itself(
    tmp_path: Path, full_at_first: None
) -> None:
    code, said = ran(tmp_path)
    assert code == 0
    assert said.index("Paused") < said.index("There is space again") < said.index("trial 0")
    assert "All trials have run." in said
    assert "The sweep: finished." in (tmp_path / "sweeps/tiny/report.html").read_text()
    code, said = ran(tmp_path)
    assert (code, "tiny: all trials have run; raise --trials to go on." in said) == (0, True)


def test_word_that_is_left_while_it_prepares_stops_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = preparation.Check(Path("data"), FOUND, on_gpus=False)

    def prepare(*_: object, **__: object) -> preparation.Check:
        ask_to_stop(tmp_path / "sweeps" / "tiny")
        return found

    monkeypatch.setattr(preparation, "prepare_data", prepare)
    assert ran(tmp_path)[0] == 130
    assert read_sweep(tmp_path / "sweeps" / "tiny").trials == []


@pytest.mark.parametrize("is_resumed", [False, True])
def test_a_signal_while_the_report_is_written_is_heard_and_all_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_resumed: bool
) -> None:
    if is_resumed:
        assert ran(tmp_path)[0] == 0
        sent = (tmp_path / "sweeps/tiny" / layout.JOURNAL).with_suffix(".sent")
        sent.unlink()  # as if it had been killed before its end

    def write_hit(stored: StoredSweep) -> Path:
        os.kill(os.getpid(), signal.SIGTERM)
        return write_report(stored)

    monkeypatch.setattr(recording, "write_report", write_hit)
    assert ran(tmp_path)[0] == 130
    assert "The sweep: finished." in (tmp_path / "sweeps/tiny/report.html").read_text()
