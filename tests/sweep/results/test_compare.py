"""`sweep compare`: two sweeps or trials side by side, and whether their losses compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import pytest
from rich.console import Console
from typer.testing import CliRunner

from sweep.cli.commands import app
from sweep.confirm.plan import plan
from sweep.report.page import page
from sweep.results.compare import Side, as_json, comparison, side_of, verdict, why_not_comparable
from sweep.results.reading import read_sweep
from sweep.storage.patient import storage_url
from tests.sweep.reviewed import SPACE, make_config, measured, point, result, write_sweep
from trials.trial_folder import write_result

TASK: dict[str, Any] = {
    "base_model": {"name": "org/model", "max_length": 512},
    "train": "aaaa",
    "eval": "bbbb",
    "tokenizer": "cccc",
    "sample_rows": 64,
    "chat": False,
    "loss_on": "completion",
    "evaluations": 4,
    "optimizer": "adamw",
    "seed": 0,
}


def swept(folder: Path, losses: list[float], **changes: Any) -> Path:
    """A sweep with a completed trial of each of these lowest losses, and a task."""
    curves = [
        [point(1, x + 0.3), point(2, x + 0.02), point(3, x + 0.01), point(4, x)] for x in losses
    ]
    write_sweep(folder, [(make_config(n), result("completed", c), c) for n, c in enumerate(curves)])
    optuna.load_study(study_name=folder.name, storage=storage_url(folder)).set_user_attr(
        "task", TASK | changes
    )
    return folder


def side(folder: Path, trial: int | None = None) -> Side:
    return side_of(read_sweep(folder), trial)


def shown(one: Path, other: Path) -> str:
    console = Console(width=140, record=True)
    console.print(comparison(side(one), side(other)))
    return console.export_text()


def of_rows(folder: Path, nlls: npt.ArrayLike, outcome: str = "completed") -> Path:
    """A sweep with one trial that had these losses of rows."""
    curve = [measured(1, nlls)]
    write_sweep(folder, [(make_config(0), result(outcome, curve), curve)])
    optuna.load_study(study_name=folder.name, storage=storage_url(folder)).set_user_attr(
        "task", TASK
    )
    return folder


ROWS = np.linspace(10.0, 30.0, 64)


def test_a_lead_beyond_rows_and_seeds_is_probable_with_its_numbers(tmp_path: Path) -> None:
    one, other = of_rows(tmp_path / "one", ROWS), of_rows(tmp_path / "other", ROWS - 1.0)
    words = verdict(side(one), side(other))
    assert words.startswith("other, trial 0 is probably better, by 0.1")
    assert "on 64 eval rows (95 % interval over the rows and one seed each; the seeds'" in words


def test_a_lead_that_other_rows_turn_around_is_none(tmp_path: Path) -> None:
    swings = np.where(np.arange(64) % 2, 4.0, -5.0)
    one, other = of_rows(tmp_path / "one", ROWS), of_rows(tmp_path / "other", ROWS + swings)
    words = verdict(side(one), side(other))
    assert words.startswith("No clear winner: other, trial 0 leads by 0.05")


def test_without_the_losses_of_rows_chance_is_not_known(tmp_path: Path) -> None:
    one, other = swept(tmp_path / "one", [1.5, 1.6]), swept(tmp_path / "other", [1.2])
    words = verdict(side(one), side(other))
    assert words.startswith(
        "other, trial 0 has the better eval loss by 0.3000 nats; whether that is chance is not"
    )


@pytest.mark.parametrize("outcome", ["outclassed", "diverged"])
def test_a_trial_that_was_stopped_early_is_not_compared(tmp_path: Path, outcome: str) -> None:
    one = of_rows(tmp_path / "one", ROWS)
    other = of_rows(tmp_path / "other", ROWS - 5.0, outcome)
    words = verdict(side(one), side(other, 0))
    assert words == (
        f"Not comparable: other, trial 0 ended as {outcome} at 25% of its run, so its eval loss is "
        f"not that of a whole one."
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"eval": "dddd"}, "Not comparable: different eval data: bbbb → dddd."),
        ({"loss_on": "all"}, "Not comparable: different loss_on: completion → all."),
        ({"base_model": {"name": "m", "max_length": 99}}, "max_length: 512 → 99"),
    ],
)
def test_losses_on_other_rows_or_tokens_do_not_compare(
    tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    one, other = swept(tmp_path / "one", [1.5]), swept(tmp_path / "other", [1.2], **changed)
    assert words in verdict(side(one), side(other))


@pytest.mark.parametrize(
    "changed", [{"train": "dddd"}, {"base_model": {"name": "m", "max_length": 512}}]
)
def test_other_train_rows_or_another_model_may_be_compared(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    one, other = swept(tmp_path / "one", [1.5]), swept(tmp_path / "other", [1.2], **changed)
    assert why_not_comparable(side(one), side(other)) is None


def test_what_differs_in_the_files_is_shown_and_nothing_else(tmp_path: Path) -> None:
    one, other = swept(tmp_path / "one", [1.5]), swept(tmp_path / "other", [1.2])
    (other / "space.yaml").write_text(f"{SPACE}sampler: random\n")
    text = shown(one, other)
    assert "sampler" in text
    assert "base_model" not in text


def test_two_trials_of_one_sweep(tmp_path: Path) -> None:
    swept(tmp_path / "mine", [1.5, 1.2])
    answer = CliRunner().invoke(
        app, ["compare", "mine:0", "mine:1", "--output", str(tmp_path), "--json"]
    )
    found = json.loads(answer.stdout)
    assert [side["eval_loss"] for side in found["sides"]] == [1.5, 1.2]
    assert (found["comparable"], found["settings"]) == (True, {})


def test_a_sweep_without_a_winner_is_shown_as_it_is(tmp_path: Path) -> None:
    one = swept(tmp_path / "one", [1.5])
    curve = [point(1, 1.0)]
    other = write_sweep(tmp_path / "lost", [(make_config(0), result("diverged", curve), curve)])
    found = as_json(side(one), side(other))
    assert found["sides"][1]["eval_loss"] is None
    assert "lost" in shown(one, other)


def test_a_trial_is_named_by_its_number(tmp_path: Path) -> None:
    swept(tmp_path / "mine", [1.5])
    answer = CliRunner().invoke(app, ["compare", "mine:best", "mine", "--output", str(tmp_path)])
    assert answer.exit_code == 2
    assert "such as mine:17" in answer.stderr


def test_seeds_decide_where_both_were_confirmed(tmp_path: Path) -> None:
    folder = swept(tmp_path / "mine", [1.2, 1.5])
    losses = {8: (1.6, 1.5), 9: (1.61, 1.51), 10: (1.62, 1.53)}  # trial 1 is better with these
    for seed, pair in losses.items():
        for run in plan(read_sweep(folder), top=2, n_seeds=seed - 7):
            if run.config.seed == seed:
                curve = [point(4, pair[run.trial])]
                run.folder.mkdir(parents=True)
                write_result(run.config, result("completed", curve), curve)
    words = verdict(side(folder, 0), side(folder, 1))
    assert words.startswith("mine, trial 1 is better beyond noise (0.0967 ± 0.0143, 95% interval")
    assert "of 3 other seeds on all eval rows" in words
    report = page(read_sweep(folder))
    assert "The best trials, retrained with other seeds" in report
    assert "Trial 1 is better than 0 beyond noise" in report


def test_two_seeds_decide_nothing(tmp_path: Path) -> None:
    folder = swept(tmp_path / "mine", [1.2, 1.5])
    for run in plan(read_sweep(folder), top=2, n_seeds=2):
        curve = [point(4, 1.0 + run.trial)]
        run.folder.mkdir(parents=True)
        write_result(run.config, result("completed", curve), curve)
    words = verdict(side(folder, 0), side(folder, 1))
    assert "trial 0 has the better eval loss by 0.3000 nats" in words
