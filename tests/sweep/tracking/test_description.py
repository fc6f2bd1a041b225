"""What a sweep's run says of itself in MLflow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sweep.tracking.description import as_markdown
from tests.sweep.screen.test_summary import summary


def test_its_first_line_says_who_won_since_mlflow_folds_away_the_rest() -> None:
    first = as_markdown(summary()).splitlines()[0]
    assert first.startswith(
        "**[Trial 001](#trial-1) is the winner** with rank 16, alpha 32, lr 0.00023, epochs 2, "
        "batch 8."
    )
    assert "Eval loss 1.2500 vs 2.5000 for the base model" in first


def test_it_has_a_table_of_the_best_with_links_to_their_runs() -> None:
    text = as_markdown(summary()).replace("&emsp;", "")
    assert "3 trials ended: 1 completed, 1 overfit, 1 failed. 1:01 in all." in text
    assert "| [001](#trial-1) | 1.2500 | 16 | 32 | 0.00023 | 2 | 8 | overfit |" in text


def test_of_a_sweep_that_runs_it_says_so() -> None:
    text = as_markdown(summary(), lives=True)
    assert "leads" in text
    assert "is the winner" not in text
    assert "Still running." in text


def test_without_a_winner_there_is_no_table() -> None:
    text = as_markdown(replace(summary(), ranked=[]))
    assert text.splitlines()[0] == "No trial has reached an eval loss that counts."
    assert "|" not in text


def test_it_shows_the_plots() -> None:
    text = as_markdown(summary(), plots=[Path("here/plots/best_eval_loss.png")])
    assert "**Best eval loss**\n\n![best_eval_loss](plots/best_eval_loss.png)" in text
