"""What is said of a winner's lead: by rows and seeds, by `sweep confirm`, and beside the base."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import optuna
import pytest

from sweep.confirm.plan import plan
from sweep.report.page import page
from sweep.results.certainty import ENOUGH_RUNS, SEED_SHARE, Judge
from sweep.results.conclusion import Conclusion, conclude
from sweep.results.reading import read_sweep
from sweep.results.trial_record import record_of
from sweep.storage.patient import storage_url
from tests.sweep.reviewed import make_config, measured, point, result, write_sweep
from trials.evaluation.row_nlls import as_text
from trials.trial_folder import write_result

N_ROWS, N_TOKENS = 64, 10
CHANCE = np.random.default_rng(0)
ROWS = CHANCE.uniform(10.0, 30.0, N_ROWS)

Rows = npt.NDArray[np.float64]


def swept(folder: Path, *trials: Rows, base: Rows | None = None) -> Path:
    """A sweep with a completed trial of each of these losses of rows."""
    curves = [[measured(1, nlls + 5.0), measured(4, nlls)] for nlls in trials]
    write_sweep(folder, [(make_config(n), result("completed", c), c) for n, c in enumerate(curves)])
    if base is not None:
        study = optuna.load_study(study_name=folder.name, storage=storage_url(folder))
        study.set_user_attr("base_eval_loss", float(base.sum()) / (N_ROWS * N_TOKENS))
        study.set_user_attr("base_row_nlls", as_text(base))
    return folder


def said(folder: Path) -> Conclusion:
    found = conclude(read_sweep(folder))
    assert found is not None
    return found


def confirmed(folder: Path, losses: Sequence[Sequence[float]]) -> None:
    """Write runs of `sweep confirm`: the losses of each seed, by trial."""
    for run in plan(read_sweep(folder), top=len(losses[0]), n_seeds=len(losses)):
        curve = [point(4, losses[run.config.seed - make_config().seed - 1][run.trial])]
        run.folder.mkdir(parents=True)
        write_result(run.config, result("completed", curve), curve)


def test_the_standard_error_is_that_of_paired_rows_and_of_two_seeds(tmp_path: Path) -> None:
    other = ROWS + CHANCE.normal(0.3, 1.0, N_ROWS)
    sweep = read_sweep(swept(tmp_path / "mine", ROWS, other))
    lead = Judge(sweep).lead(sweep.trials[0], sweep.trials[1])
    assert lead is not None
    apart = np.float16(other).astype(float) - np.float16(ROWS).astype(float)
    n_tokens = N_ROWS * N_TOKENS
    assert lead.mean == pytest.approx((other.sum() - ROWS.sum()) / n_tokens)
    # Of the mean of the rows' differences, in nats per token: mean(d) · n / T has √n · s / T.
    assert lead.of_rows == pytest.approx(math.sqrt(N_ROWS) * apart.std(ddof=1) / n_tokens, rel=1e-3)
    # A seed moves the mean of the rows' differences by so much of their standard deviation.
    seeds = SEED_SHARE * N_ROWS * apart.std(ddof=1) / n_tokens
    assert lead.of_seeds == pytest.approx(seeds, rel=1e-3)
    assert lead.standard_error == pytest.approx(math.hypot(lead.of_rows, lead.of_seeds))


def test_a_lead_is_probable_once_it_is_1_28_standard_errors(tmp_path: Path) -> None:
    """One in ten is then wrong, where all leads are as likely: the normal's 90th percentile."""
    swings = np.resize([1.0, -1.0], N_ROWS)
    error = swings.std(ddof=1) * math.sqrt(1 / N_ROWS + SEED_SHARE**2)
    for name, times, certainty in (("less", 1.2, "tied"), ("more", 1.4, "probable")):
        found = said(swept(tmp_path / name, ROWS, ROWS + swings + times * error))
        assert found.certainty == certainty


def test_one_seed_never_gives_more_than_probable(tmp_path: Path) -> None:
    found = said(swept(tmp_path / "mine", ROWS, ROWS + 8.0 + CHANCE.normal(0, 0.1, N_ROWS)))
    assert found.certainty == "probable"
    assert found.over_others.startswith(
        "Trial 0 is probably better than trial 1, the second, by 0."
    )
    assert found.words.endswith("\nTo be sure: sweep confirm mine --output " + str(tmp_path))


def test_trials_that_cannot_be_told_apart_are_all_named(tmp_path: Path) -> None:
    near = [ROWS + CHANCE.normal(0.01 * n, 2.0, N_ROWS) for n in range(3)]
    far = ROWS + 9.0
    found = said(swept(tmp_path / "mine", *near, far))
    assert sorted(found.tied) == [0, 1, 2]
    assert "cannot be told apart" in found.over_others


def test_without_the_losses_of_rows_nothing_is_said_of_chance(tmp_path: Path) -> None:
    curves = [[point(4, loss)] for loss in (1.5, 1.0)]
    folder = write_sweep(
        tmp_path / "mine",
        [(make_config(n), result("completed", c), c) for n, c in enumerate(curves)],
    )
    found = said(folder)
    assert found.certainty == "unknown"
    assert "Trial 1 leads 0 by 0.5000. Whether that is chance is not known: the losses" in (
        found.over_others
    )


def test_the_seeds_of_confirm_decide_and_are_the_headline(tmp_path: Path) -> None:
    folder = swept(tmp_path / "mine", ROWS, ROWS + 0.1)
    confirmed(folder, [(1.6, 1.5), (1.61, 1.52), (1.62, 1.51)])
    found = said(folder)
    assert (found.certainty, found.winner.number) == ("confirmed", 1)
    assert found.over_others.startswith(
        "Confirmed with 3 seeds: trial 1 is better than 0 (0.1000 ±"
    )
    assert "In the sweep itself trial 0 had the lowest eval loss." in found.over_others
    assert record_of(read_sweep(folder)).trial.number == 1
    text = page(read_sweep(folder))
    assert "Trial 1 has the lowest mean eval loss of 3 seeds" in text
    assert "probably better" not in text


def test_seeds_that_do_not_agree_leave_a_tie(tmp_path: Path) -> None:
    folder = swept(tmp_path / "mine", ROWS, ROWS + 8.0)
    confirmed(folder, [(1.6, 1.5), (1.5, 1.6), (1.55, 1.56)])
    found = said(folder)
    assert found.certainty == "tied"
    assert "Trained again with 3 seeds, trials 0 and 1 cannot be told apart" in found.over_others


def test_too_few_seeds_are_said_and_decide_nothing(tmp_path: Path) -> None:
    folder = swept(tmp_path / "mine", ROWS, ROWS + 8.0)
    confirmed(folder, [(1.6, 1.5)])
    found = said(folder)
    assert found.winner.number == 0
    assert (found.certainty, "too few seeds to tell them apart." in found.words) == ("tied", True)
    assert found.words.endswith(f"Add seeds: sweep confirm mine --output {tmp_path} --seeds 3")


def test_too_few_seeds_that_agree_leave_what_the_rows_say(tmp_path: Path) -> None:
    folder = swept(tmp_path / "mine", ROWS, ROWS + 8.0)
    confirmed(folder, [(1.5, 1.6), (1.5, 1.7)])
    found = said(folder)
    assert (found.certainty, found.winner.number, found.tied) == ("probable", 0, ())
    assert "Trial 0 is probably better than trial 1, " in found.over_others
    assert found.over_others.endswith("differ by 0.1500 nats: too few seeds to confirm it.")


def test_enough_runs_of_confirm_tell_how_far_seeds_scatter(tmp_path: Path) -> None:
    folder = swept(tmp_path / "mine", ROWS, ROWS + 0.1, ROWS + 8.0)
    losses = [(1.60, 1.5), (1.62, 1.52), (1.64, 1.54)]
    confirmed(folder, losses)
    sweep = read_sweep(folder)
    lead = Judge(sweep).lead(sweep.trials[0], sweep.trials[2])
    assert lead is not None and ENOUGH_RUNS == 4
    assert lead.scatter.relative == pytest.approx(0.02 / 1.57)
    assert "the seeds' part of ± is that of the 6 runs of sweep confirm" in lead.how


@pytest.mark.parametrize(
    ("below", "words"),
    [
        (-1.0, "The winner is not better than the base model."),
        (0.05, "The winner may be no better than the base model: it leads by 0."),
        (8.0, ""),
    ],
)
def test_the_winner_beside_the_base_model(tmp_path: Path, below: float, words: str) -> None:
    base = ROWS + below + np.resize([0.5, -0.5], N_ROWS)
    found = said(swept(tmp_path / "mine", ROWS, ROWS + 20.0, base=base))
    assert found.over_base.startswith(words)
    assert bool(found.over_base) == bool(words)
    assert (words in page(read_sweep(tmp_path / "mine"))) or not words
