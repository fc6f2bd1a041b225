"""`sweep confirm` without its workers: what is run, what is not run again, what it says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sweep.confirm.confirmation import Confirmation
from sweep.confirm.plan import Run, make_data, plan
from sweep.driver import loop
from sweep.errors import StudyError
from sweep.events import Place, Tracker
from sweep.pruners.own_curve import ByItself
from sweep.results.confirmed import read_confirmed
from sweep.results.confirmed_words import as_json, verdicts
from sweep.results.reading import read_sweep
from sweep.space.settings import Pruning
from sweep.study.budget import Budget
from tests.inline_runner import InlineRunner
from tests.sweep.reviewed import make_config, point, result, write_sweep
from trials.config import EvalPoint, Report, Stop, TrialConfig, TrialResult
from trials.data.tokens import TokenRows, TokenSplit
from trials.trial_folder import write_result


class Recorder(Tracker):
    """Which runs it was told have ended."""

    def __init__(self) -> None:
        self.ended: list[int] = []

    def trial_ended(self, number: int, result: TrialResult) -> None:
        self.ended.append(number)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep whose trials 1, 0 and 2 are the best, in this order; trial 3 diverged."""
    losses = [1.5, 1.4, 1.6]
    curves = [[point(1, loss + 0.1), point(4, loss)] for loss in losses]
    trials = [(make_config(n), result("completed", c), c) for n, c in enumerate(curves)]
    lost = [point(1, 1.0)]
    return write_sweep(
        tmp_path / "mine", [*trials, (make_config(3), result("diverged", lost), lost)]
    )


def ran(folder: Path, top: int, n_seeds: int, loss: Callable[[TrialConfig], float]) -> list[int]:
    """Run a confirmation whose runs reach these losses; the numbers of those that ran."""
    runs = plan(read_sweep(folder), top=top, n_seeds=n_seeds)
    numbers = []

    def trial(config: TrialConfig, report: Report) -> TrialResult:
        numbers.append(config.number)
        curve = [point(1, loss(config) + 1), point(4, loss(config))]
        for each in curve:
            assert report(each) is None
        ended = result("completed", curve)
        write_result(config, ended, curve)
        return ended

    sweep = Confirmation(runs, ByItself(Pruning(), n_evaluations=4))
    loop.run(sweep, InlineRunner(trial), Budget(trials=len(runs), hours=None))
    return numbers


def of_trials(folder: Path) -> dict[int, int]:
    """Number of a run → its trial."""
    entries = json.loads((folder / "confirm" / "plan.json").read_text())
    return {number: trial for number, (trial, _) in enumerate(entries)}


def test_the_best_run_with_new_seeds_all_of_one_seed_before_the_next(folder: Path) -> None:
    runs = plan(read_sweep(folder), top=2, n_seeds=2)
    assert [(run.trial, run.config.seed) for run in runs] == [(1, 8), (0, 8), (1, 9), (0, 9)]
    sweeps_own = make_config(1)
    assert runs[0].config.learning_rate == sweeps_own.learning_rate
    assert runs[0].config.data_dir == str(folder / "confirm" / "data")
    assert [run.config.evaluate_base for run in runs] == [True, False, False, False]


def test_a_run_is_called_by_the_trial_and_the_seed_that_it_is_of(folder: Path) -> None:
    runs = plan(read_sweep(folder), top=2, n_seeds=2)
    assert runs[3].config.name == runs[3].config.label == "trial 0, seed 9 (run 3)"


def test_a_trial_whose_loss_does_not_count_is_none_of_the_best(folder: Path) -> None:
    assert {run.trial for run in plan(read_sweep(folder), top=9, n_seeds=1)} == {0, 1, 2}


def test_only_what_is_missing_runs_and_more_may_be_asked_for(folder: Path) -> None:
    def loss(config: TrialConfig) -> float:
        return float(config.seed)

    assert ran(folder, 2, 2, loss) == [0, 1, 2, 3]
    assert ran(folder, 2, 2, loss) == []
    assert ran(folder, 3, 2, loss) == [4, 5]
    assert of_trials(folder) == {0: 1, 1: 0, 2: 1, 3: 0, 4: 2, 5: 2}


def test_a_run_that_failed_runs_again_at_the_next_call(folder: Path) -> None:
    (run,) = plan(read_sweep(folder), top=1, n_seeds=1)
    failed = result("failed", [])
    run.folder.mkdir(parents=True)
    write_result(run.config, failed, [])
    (each,) = read_confirmed(read_sweep(folder))
    assert each.mean is None
    assert verdicts([each])[0] == "Trial 1 with seed 8 does not count: failed: It is failed."
    assert ran(folder, 1, 1, lambda _: 1.0) == [0]


def test_a_lead_that_every_seed_repeats_is_beyond_noise(folder: Path) -> None:
    ran(folder, 3, 3, lambda c: {1: 1.0, 0: 1.1, 2: 1.0}[of_trials(folder)[c.number]] + c.seed / 7
        + (0.3 * (-1) ** c.seed if of_trials(folder)[c.number] == 2 else 0))  # fmt: skip
    found = read_confirmed(read_sweep(folder))
    said = "\n".join(verdicts(found))
    assert "is better than 0 beyond noise (0.1000 ± 0.0000, 95% interval)" in said
    assert re.search("Trials (1 and 2|2 and 1) cannot be told apart", said)
    told = as_json("mine", found)
    assert json.loads(json.dumps(told, allow_nan=False))["sweep"] == "mine"


def test_two_seeds_that_agree_say_may(folder: Path) -> None:
    ran(folder, 2, 2, lambda c: {1: 1.0, 0: 1.1}[of_trials(folder)[c.number]] + c.seed / 7)
    said = verdicts(read_confirmed(read_sweep(folder)))
    assert said[0].startswith("Trial 1 may be better than 0, with 2 seeds (0.1000 ± ")


def test_the_winner_may_be_another_one_than_the_sweeps(folder: Path) -> None:
    ran(folder, 2, 3, lambda c: {1: 1.2, 0: 1.1}[of_trials(folder)[c.number]])
    assert [each.trial for each in read_confirmed(read_sweep(folder))] == [0, 1]


def test_one_seed_says_that_it_says_little(folder: Path) -> None:
    ran(folder, 2, 1, lambda c: float(c.number))
    said = verdicts(read_confirmed(read_sweep(folder)))
    assert "may be noise: one seed in common" in said[0]
    assert "1 seed can hardly separate trials: add more --seeds." in said[1]


def test_runs_that_overfit_are_ended_but_none_is_compared_with_its_peers(folder: Path) -> None:
    (run,) = plan(read_sweep(folder), top=1, n_seeds=1)
    run = replace(run, config=replace(run.config, lr_scheduler="cosine"))
    sweep = Confirmation([run], ByItself(Pruning(), n_evaluations=9))
    number, config = sweep.ask()
    sweep.started(config, Place("box", "CPU worker 0"))
    curve = [1.1, 1.0, 1.3, 1.3, 1.3, 1.3]
    said: list[Stop | None] = []
    for index, loss in enumerate(curve, start=1):
        falling = replace(point(index, loss), train_loss=1.0 - index / 10)
        said.append(sweep.report(number, falling))
    assert [stop and stop.outcome for stop in said] == [*[None] * 5, "overfit"]


def test_a_run_that_lost_its_machine_goes_on_and_three_losses_end_it(folder: Path) -> None:
    (run,) = plan(read_sweep(folder), top=1, n_seeds=1)
    sweep = Confirmation([run], ByItself(Pruning(), n_evaluations=4))
    lost = replace(result("failed", []), fault="machine_lost")
    ends = []
    for _ in range(3):
        number, _config = sweep.ask()
        ends.append(sweep.tell(number, lost))
    assert ends == [False, False, True]
    assert sweep.is_exhausted()


def test_of_a_run_that_had_not_begun_when_it_was_interrupted_nobody_hears(folder: Path) -> None:
    heard = Recorder()
    sweep = Confirmation(
        plan(read_sweep(folder), top=2, n_seeds=1),
        ByItself(Pruning(), n_evaluations=4),
        trackers=[heard],
    )
    (_, begun), (waits, _) = sweep.ask(), sweep.ask()
    sweep.started(begun, Place("box", "CPU worker 0"))
    sweep.interrupt()
    assert heard.ended == [begun.number]
    assert sweep.ask()[0] == begun.number and sweep.ask()[0] == waits


def test_the_sample_is_all_eval_rows_that_carry_loss(folder: Path) -> None:
    data = folder / "data"
    data.mkdir()
    (data / "report.json").write_text("{}")
    rows = TokenSplit.of(
        ids=np.arange(9, dtype=np.int32),
        supervised=np.array([0, 1, 1, 0, 0, 0, 0, 1, 1], bool),
        lengths=np.array([3, 3, 3]),
    )
    rows.save(data / "eval")
    rows.save(data / "train")
    assert make_data(read_sweep(folder), max_length=8) == 2  # the second has no supervised token
    assert len(TokenRows(folder / "confirm" / "data" / "sample", 8)) == 2
    assert len(TokenRows(folder / "confirm" / "data" / "train", 8)) == 2
    assert make_data(read_sweep(folder), max_length=8) == 2


def test_without_the_rows_it_says_how_to_have_them_back(folder: Path) -> None:
    with pytest.raises(StudyError, match="must hold the sweep's tokenised rows, but they are gone"):
        make_data(read_sweep(folder), max_length=8)


def test_without_a_trial_that_counts_there_is_nothing_to_confirm(tmp_path: Path) -> None:
    curve: list[EvalPoint] = [point(1, 1.0)]
    folder = write_sweep(tmp_path / "lost", [(make_config(0), result("diverged", curve), curve)])
    with pytest.raises(StudyError, match="no trial has an eval loss that counts yet"):
        plan(read_sweep(folder), top=3, n_seeds=3)


def test_a_run_knows_whether_it_has_ended(folder: Path) -> None:
    (run,) = plan(read_sweep(folder), top=1, n_seeds=1)
    assert isinstance(run, Run)
    assert run.result is None


def test_a_failure_is_known_to_whoever_reads_later_and_does_not_count(folder: Path) -> None:
    runs = plan(read_sweep(folder), top=2, n_seeds=1)

    def trial(config: TrialConfig, report: Report) -> TrialResult:
        curve = [point(4, 1.0)]
        if config.number == 0:
            reason = "ConnectionError: http://me:secret@box is away"
            return TrialResult(outcome="failed", reason=reason, cause="ConnectionError")
        write_result(config, result("completed", curve), curve)
        return result("completed", curve)

    sweep = Confirmation(runs, ByItself(Pruning(), n_evaluations=4))
    loop.run(sweep, InlineRunner(trial), Budget(trials=len(runs), hours=None))
    said = "\n".join(verdicts(read_confirmed(read_sweep(folder))))
    assert "Trial 1 with seed 8 does not count: failed: ConnectionError" in said
    assert "secret" not in said
    assert [each.trial for each in read_confirmed(read_sweep(folder)) if each.mean] == [0]


def test_rows_that_are_not_the_sweeps_are_refused(folder: Path) -> None:
    (folder / "data").mkdir()
    report = {"train_fingerprint": "a", "eval_fingerprint": "b"}
    (folder / "data" / "report.json").write_text(json.dumps(report))
    with pytest.raises(StudyError, match="but they changed .train, eval.. Put the old"):
        make_data(read_sweep(folder), max_length=8)


def test_tokens_that_an_older_versions_trials_did_not_learn_are_refused(folder: Path) -> None:
    (folder / "data").mkdir()
    report = {"sample_tokens": {"digest": "new"}, "earlier_sample_tokens": {"digest": "old"}}
    (folder / "data" / "report.json").write_text(json.dumps(report))
    with pytest.raises(StudyError, match="must hold the tokens of the sweep's trials, but this ve"):
        make_data(read_sweep(folder), max_length=8)
