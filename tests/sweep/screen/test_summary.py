"""The words at the end of a sweep."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from sweep.screen.summary import summary_text
from sweep.study.ended import StoredTrial
from sweep.study.summary import Summary
from sweep.text.trials import against_base
from trials.config import Outcome


def trial(number: int, outcome: Outcome, eval_loss: float | None) -> StoredTrial:
    return StoredTrial(
        number=number,
        hyperparameters={
            "rank": 16,
            "alpha": 32.0,
            "learning_rate": 2.345e-4,
            "epochs": 2,
            "effective_batch_size": 8,
        },
        outcome=outcome,
        reason=f"Why {number}.\nAnd its log.",
        eval_loss=eval_loss,
        seconds=1.0,
        value=eval_loss,
    )


COMPLETED, OVERFIT = trial(0, "completed", 1.5), trial(1, "overfit", 1.25)
FAILED = trial(2, "failed", None)


def summary(*, n_waiting: int = 0, base: float | None = 2.5) -> Summary:
    return Summary(
        name="mine",
        ended=[COMPLETED, OVERFIT, FAILED],
        ranked=[OVERFIT, COMPLETED],
        base_eval_loss=base,
        best_dir=Path("sweeps/mine/best"),
        see_it_all="sweep ui mine",
        wall_seconds=61.0,
        n_waiting=n_waiting,
    )


def shown(what: Summary) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(summary_text(what))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_summary_names_winner_base_loss_adapter_and_what_was_stopped() -> None:
    words = shown(summary())
    assert "mine: 3 trials in 1:01" in words
    assert "winner  001    1.2500     16    32     0.00023  2       8      overfit" in words
    assert "Eval loss 1.2500 vs 2.5000 for the base model" in words
    assert "sweeps/mine/best/adapter" in words
    assert "Overfit:  trial 1\n" in words
    assert "Failed:  trial 2. Why 2." in words
    assert "And its log" not in words
    assert "sweep ui mine" in words


def test_with_a_price_it_says_what_the_gpu_hours_came_to() -> None:
    assert "mine: 3 trials in 1:01  1 completed" in shown(summary())
    priced = replace(summary(), gpu_hours=0.5, price_per_gpu_hour=3.0)
    assert "mine: 3 trials in 1:01, 0.50 GPU hours (1.50 at 3 an hour)  1" in shown(priced)


def test_it_ends_with_what_to_do_next() -> None:
    told = replace(
        summary(),
        best_dir=Path("/data/mine/best"),
        conclusion="It may be chance. To be sure: sweep confirm mine",
        next_step="To be sure: sweep confirm mine",
    )
    lines = shown(told).splitlines()
    assert "It may be chance." in lines
    assert lines[lines.index("Adapter:  /data/mine/best/adapter") + 1 :][:3] == [
        "To be sure: sweep confirm mine",
        "Ask it, beside the base model:  sweep try mine --output /data",
        "Take it along:  sweep export mine --output /data --to mine-adapter",
    ]


def test_it_names_the_report_if_that_was_written(tmp_path: Path) -> None:
    written = replace(summary(), report=tmp_path / "report.html")
    assert "with charts" not in shown(written)
    (tmp_path / "report.html").touch()
    assert "Report with charts:" in shown(written)


def test_trials_that_were_cut_off_are_not_forgotten() -> None:
    assert "2 trials interrupted; the same command resumes." in shown(summary(n_waiting=2))


def test_without_a_valued_trial_there_is_no_winner() -> None:
    nobody = Summary(
        name="mine",
        ended=[FAILED],
        ranked=[],
        base_eval_loss=None,
        best_dir=None,
        see_it_all="sweep ui mine",
        wall_seconds=1.0,
        n_waiting=0,
    )
    assert "No winner: no trial has an eval loss that counts." in shown(nobody)
    assert "No winner yet: no trial has" in shown(replace(nobody, n_waiting=1))


@pytest.mark.parametrize(
    ("base", "words"),
    [(None, "the base model's is unknown"), (2.5, "vs 2.5000 for the base model")],
)
def test_a_missing_base_loss_stays_missing(base: float | None, words: str) -> None:
    assert words in against_base(1.5, base)
