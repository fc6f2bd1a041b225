"""The final evaluation: what is measured, what is not measured again, and who wins by it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import pytest
from rich.console import Console

from sweep.api import read_result
from sweep.confirm.plan import plan as confirmation
from sweep.driver import loop
from sweep.errors import StudyError
from sweep.export.model_card import model_card
from sweep.report.sections import best_ten_section
from sweep.results import listing, show, status
from sweep.results.certainty import Judge
from sweep.results.compare import as_json, comparison, side_of, verdict
from sweep.results.conclusion import conclude
from sweep.results.final import read_final
from sweep.results.final_words import figures_in_words
from sweep.results.reading import read_sweep
from sweep.results.trial_record import record_of
from sweep.storage.patient import storage_url
from sweep.study.budget import Budget
from sweep.study.final import FinalEvaluation, Part, leave_out, plan
from tests.inline_runner import InlineRunner
from tests.sweep.reviewed import make_config, measured, result, write_sweep
from trials.config import Report, TrialConfig, TrialResult
from trials.evaluation.bootstrap import N_DRAWS, as_text, drawn

SAMPLE = np.linspace(10.0, 30.0, 16)
ALL = np.linspace(10.0, 30.0, 64)
FAULT = TrialResult(outcome="failed", reason="Its machine was lost.", fault="machine_lost")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three trials; on the sample the first is the best, then the second."""
    curves = [[measured(4, SAMPLE + shift)] for shift in (0.0, 0.5, 9.0)]
    trials = [(make_config(n), result("completed", c), c) for n, c in enumerate(curves)]
    return write_sweep(tmp_path / "mine", trials)


def planned(
    folder: Path, trials: Sequence[int], part: Part = "all", **changes: Any
) -> FinalEvaluation:
    asked: dict[str, Any] = {"rows": "rows", "quantization": "nf4"}
    configs = {number: make_config(number) for number in trials}
    return FinalEvaluation(plan(folder, part, configs, **asked | changes))


def evaluated(
    folder: Path,
    trials: Sequence[int],
    shifts: Mapping[str, npt.ArrayLike],
    lost: Sequence[str] = (),
    part: Part = "all",
    **changes: Any,
) -> list[str]:
    """Measure trials whose rows cost so much more than usual; returns what was measured."""
    final = planned(folder, trials, part, **changes)
    asked, to_lose = [], list(lost)

    def trial(config: TrialConfig, report: Report) -> TrialResult:
        adapter = Path(config.measured_adapter)
        name = adapter.parent.name if config.measured_adapter else "base"
        asked.append(name)
        if name in to_lose:
            to_lose.remove(name)
            return FAULT
        assert config.measured_rows == ("test" if part == "test" else "eval")
        assert config.model.quantization == changes.get("quantization", "nf4")
        assert config.model.backend == "transformers"
        return result("completed", [measured(0, ALL + np.asarray(shifts[name]))])

    if final.n_to_do:
        loop.run(final, InlineRunner(trial), Budget(None, None))
    return asked


def test_the_best_and_the_base_are_measured_once(folder: Path) -> None:
    shifts = {"000": 1.0, "001": 0.5, "002": 2.0, "base": 20.0}
    assert evaluated(folder, [0, 1], shifts) == ["000", "001", "base"]
    assert evaluated(folder, [0, 1], shifts) == []
    assert evaluated(folder, [0, 2], shifts) == ["002"]
    found = read_final(folder)
    assert sorted(found.all.trials) == [0, 1, 2]
    assert found.all.base is not None and found.all.base.n_rows == 64


def test_all_rows_decide_who_has_won(folder: Path) -> None:
    evaluated(folder, [0, 1, 2], {"000": 3.0, "001": 0.0, "002": 9.0, "base": 20.0})
    sweep = read_sweep(folder)
    assert (sweep.ranked[0].number, sweep.best, record_of(sweep).trial.number) == (0, 1, 1)
    found = conclude(sweep)
    assert found is not None
    assert found.winner.number == 1
    assert found.figures[0].startswith("On all 64 eval rows: eval loss 2.0000")
    assert found.how.startswith("95 % interval over the rows and one seed each")
    card = model_card(record_of(sweep), is_merged=False, data="d", template=None, arguments={})
    assert "2.0000 nats per supervised token on all 64 eval rows. The base model has 4.0000" in card
    (run,) = confirmation(sweep, top=1, n_seeds=1)
    assert run.trial == 1
    [listed] = listing.as_json(listing.read_all(folder.parent))
    assert (listed["best_trial"], listed["best_value"]) == (1, pytest.approx(2.0))
    assert (listed["base_value"], listed["measured"]) == (4.0, "on all 64 eval rows")
    assert status.as_json(sweep)["best"] == 1
    assert status.against_base(sweep, sweep.decided[0]) == (
        "Eval loss 2.0000 vs 4.0000 for the base model (perplexity 7.39 vs 54.60) on all 64 eval "
        "rows."
    )


def test_every_table_has_the_order_and_the_figures_of_the_final_evaluation(folder: Path) -> None:
    task_of(folder, sample_rows=16)
    sweep = read_sweep(folder)
    assert sweep.columns.headings == ["eval loss"]
    evaluated(folder, [0, 1], {"000": 3.0, "001": 1.0, "base": 20.0})
    sweep = read_sweep(folder)
    assert sweep.columns.headings == ["eval loss", "rows"]
    numbers = [trial.number for trial in show.ordered(sweep, "objective")]
    assert numbers == [trial.number for trial in show.ordered(sweep, "eval_loss")] == [1, 0, 2]
    expected = [["001", "2.1000", "64"], ["000", "2.3000", "64"], ["002", "2.9000", "16"]]
    screen = Console(width=80, record=True)
    screen.print(show.all_in_words(sweep, "objective"))
    lines = screen.export_text().splitlines()
    assert [line.split()[:3] for line in lines if line[:2] == "00"] == expected
    assert "time" in lines[1] and "…" not in "".join(lines)
    screen.print(status.status_text(sweep))
    rows = [line.split() for line in screen.export_text().splitlines() if line[:2] == "00"]
    assert [[row[0], *row[3:5]] for row in rows] == expected
    section = best_ten_section(sweep, conclude(sweep))
    assert section.index("2.1000") < section.index("2.3000") < section.index("2.9000")
    assert status.trial_as_json(sweep, sweep.trials[2])["value_on_all_rows"] is None


def test_from_python_the_final_evaluation_decides_too(folder: Path) -> None:
    evaluated(folder, [0, 1], {"000": 3.0, "001": 1.0, "base": 20.0})
    found = read_result(folder)
    assert repr(found).endswith("the best is trial 1, eval loss 2.1000 on all 64 eval rows)")
    table = found._repr_html_()
    assert table.index("<th>1</th>") < table.index("<th>0</th>") < table.index("<th>2</th>")
    assert found.trials["value_on_all_rows"].round(4).tolist()[:2] == [2.3, 2.1]


def test_a_trial_that_came_since_has_all_ranked_by_the_sample_again(folder: Path) -> None:
    evaluated(folder, [1, 2], {"001": 3.0, "002": 1.0, "base": 20.0})
    sweep = read_sweep(folder)
    assert [trial.number for trial in show.ordered(sweep, "objective")] == [0, 1, 2]
    assert sweep.columns.headings == ["eval loss"]


@pytest.mark.parametrize("is_settled", [True, False])
def test_a_verdict_of_test_rows_that_is_another_is_said_to_decide_nothing(
    folder: Path, is_settled: bool
) -> None:
    evaluated(folder, [0, 1], {"000": 0.0, "001": 1.0, "base": 20.0})
    evaluated(folder, [0, 1], {"000": 0.0, "001": ALL / 9, "base": 20.0}, part="test")
    sweep = read_sweep(folder)
    judge = Judge(sweep)
    [on_test, _] = figures_in_words(sweep, judge, sweep.decided[0], is_settled=is_settled)
    assert "probably better than trial 1 by" in on_test
    assert ("(test rows decide nothing) and" in on_test) is not is_settled


def task_of(folder: Path, **task: Any) -> None:
    study = optuna.load_study(study_name=folder.name, storage=storage_url(folder))
    study.set_user_attr("task", {"evaluations": 4, "eval": "rows", **task})


def test_compared_trials_are_ranked_by_the_rows_that_their_lead_is_of(folder: Path) -> None:
    """On the sample the first is the better one."""
    task_of(folder)
    evaluated(folder, [0, 1], {"000": 3.0, "001": ALL / 100, "base": 20.0})
    one, other = (side_of(read_sweep(folder), number) for number in (0, 1))
    lead = "mine, trial 1 is probably better, by 0.28"
    assert verdict(one, other).startswith(lead)
    assert verdict(other, one).startswith(lead)
    assert as_json(one, other)["sides"][0]["value_on_all_eval_rows"] == pytest.approx(2.3)
    screen = Console(width=80, record=True)
    screen.print(comparison(one, other))
    shown = [line.split() for line in screen.export_text().splitlines()]
    assert ["on", "all", "eval", "rows", "2.3000", "2.0200"] in shown
    assert ["the", "base", "model's", "4.0000", "4.0000"] in shown


def test_a_trial_of_another_sweep_is_not_taken_for_ours_of_its_number(
    folder: Path, tmp_path: Path
) -> None:
    curves = [[measured(4, SAMPLE + shift)] for shift in (0.1, 0.0)]
    trials = [(make_config(n), result("completed", c), c) for n, c in enumerate(curves)]
    theirs = write_sweep(tmp_path / "theirs", trials)
    for swept, second in ((folder, 9.0), (theirs, ALL / 100)):
        task_of(swept)
        evaluated(swept, [0, 1], {"000": 3.0, "001": second, "base": 20.0})
    one, other = side_of(read_sweep(folder), 0), side_of(read_sweep(theirs), 1)
    assert verdict(one, other).startswith("theirs, trial 1 is probably better, by 0.28")


def scored(
    folder: Path, right: Mapping[str, npt.NDArray[np.bool_]], direction: str = "maximize"
) -> None:
    """Measure two trials and the base by the rows they have right; the second's loss is higher."""
    task_of(folder, objective={"name": "exact_match", "direction": direction})
    names = iter(["001", "000", "base"])

    def trial(config: TrialConfig, report: Report) -> TrialResult:
        of_rows = right.get(name := next(names), np.zeros(64, dtype=bool))
        draws = drawn(64, lambda rows: float(of_rows[rows].mean()))
        found = measured(0, ALL + {"001": 5.0}.get(name, 0.0))
        scores: dict[str, Any] = {
            "score": float(of_rows.mean()),
            "score_draws": as_text(draws),
            "score_rows": 64,
        }
        return result("completed", [replace(found, **scores)])

    loop.run(planned(folder, [1, 0]), InlineRunner(trial), Budget(None, None))


def test_equal_scores_are_called_equal(folder: Path) -> None:
    rows = np.arange(64) < 20
    scored(folder, {"000": rows, "001": rows}, "minimize")  # as the sample's losses are ranked
    found = conclude(sweep := read_sweep(folder))
    assert found is not None
    assert found.over_others.endswith("told apart: 0 and 1 have the same exact_match.")
    words = verdict(side_of(sweep, 0), side_of(sweep, 1))
    assert words == "No clear winner: both have the same exact_match."


def test_without_a_final_evaluation_it_is_said_of_how_many_rows_a_loss_is(folder: Path) -> None:
    task_of(folder, sample_rows=16)
    sweep = read_sweep(folder)
    assert status.against_base(sweep, sweep.decided[0]).endswith(" on 16 eval rows.")


def test_of_a_metric_the_score_decides_with_the_error_of_drawing_rows(folder: Path) -> None:
    """Its loss is the higher one."""
    chance = np.random.default_rng(0)
    right = {"000": chance.random(64) < 0.3, "001": chance.random(64) < 0.7}
    scored(folder, right)
    sweep = read_sweep(folder)
    decided = sweep.final.decided(sweep.trials[:2], sweep.objective)
    assert [each.number for each in decided] == [1, 0]
    judge = Judge(sweep)
    lead = judge.lead(sweep.trials[1], sweep.trials[0])
    assert lead is not None and lead.certainty == "probable"
    apart = right["001"].astype(float) - right["000"]
    assert lead.mean == pytest.approx(apart.mean())
    assert lead.of_rows == pytest.approx(apart.std(ddof=1) / 8, rel=0.15)
    assert str(lead).count(" ") == 2  # no nats
    figures = figures_in_words(sweep, judge, sweep.trials[1], is_settled=True)[0]
    assert re.match(r"On all 64 eval rows: exact_match 0\.\d{4} ± 0\.1\d{3} by the choice", figures)


def test_equal_scores_are_not_called_worse(folder: Path) -> None:
    objective = {"name": "exact_match", "direction": "maximize"}
    study = optuna.load_study(study_name="mine", storage=storage_url(folder))
    study.set_user_attr("task", {"evaluations": 4, "objective": objective})
    scored: dict[str, Any] = {
        "score": 0.5,
        "score_draws": as_text(np.full(N_DRAWS, 0.5)),
        "score_rows": 64,
    }
    ended = result("completed", [replace(measured(0, ALL), **scored)])
    final = planned(folder, [1, 0], "test")
    loop.run(final, InlineRunner(lambda config, report: ended), Budget(None, None))
    sweep = read_sweep(folder)
    figures = " ".join(figures_in_words(sweep, Judge(sweep), sweep.trials[1], is_settled=True))
    assert "; equal to the base model. On the eval rows" in figures


def test_a_trial_that_came_later_is_not_passed_over_for_one_that_was_measured(folder: Path) -> None:
    """All rows say nothing of it yet, and on the sample it is the best."""
    evaluated(folder, [1, 2], {"001": 0.0, "002": -1.0, "base": 20.0})
    found = conclude(read_sweep(folder))
    assert found is not None and found.winner.number == 0


def test_a_measurement_that_was_lost_is_made_again(folder: Path) -> None:
    shifts = {"000": 0.0, "base": 20.0}
    assert evaluated(folder, [0], shifts, lost=["000"]) == ["000", "base", "000"]
    assert sorted(read_final(folder).all.trials) == [0]


def test_one_that_is_lost_every_time_is_told(folder: Path) -> None:
    final = planned(folder, [0])
    loop.run(final, InlineRunner(lambda config, report: FAULT), Budget(None, None))
    assert final.failures == ["Its machine was lost."] * 2


def test_rows_that_chose_nothing_give_the_headline_beside_those_that_did(folder: Path) -> None:
    shifts = {"000": 3.0, "001": 0.0, "base": 20.0}
    evaluated(folder, [0, 1], shifts)
    evaluated(folder, [1, 0], {**shifts, "001": 2.0}, part="test", rows="test rows")
    sweep = read_sweep(folder)
    found = conclude(sweep)
    assert found is not None and found.winner.number == 1
    assert " ".join(found.figures) == (
        "On 64 test rows, which decided nothing: eval loss 2.2000, the base model's 4.0000; "
        "probably better than trial 0 by 0.1000 ± 0.0001 nats and probably better than the base "
        "model by 1.8000 ± 0.0003 nats. On all 64 eval rows, which decided the winner: eval loss "
        "2.0000, the base model's 4.0000; 2.0500 on the search's sample."
    )
    card = model_card(record_of(sweep), is_merged=False, data="d", template=None, arguments={})
    assert "2.2000 nats per supervised token on 64 test rows. The base model has 4.0000" in card


def test_on_test_rows_the_winner_is_compared_row_by_row(folder: Path) -> None:
    """On them the second is better: that is said, and chooses nothing."""
    evaluated(folder, [0, 1], {"000": 3.0, "001": 0.0, "base": 20.0})
    final = planned(folder, [1, 0], "test")
    chance = np.random.default_rng(0)
    of_base, apart = chance.normal(20.0, 2.0, 64), chance.normal(1.0, 0.5, 64)
    rows = iter([of_base - 8.0 - apart, of_base - 9.0 - apart * 2, of_base])
    loop.run(
        final,
        InlineRunner(lambda config, report: result("completed", [measured(0, next(rows))])),
        Budget(None, None),
    )
    found = conclude(read_sweep(folder))
    assert found is not None and found.winner.number == 1
    assert re.search(
        r"; probably worse than trial 0 by 0\.\d{4} ± 0\.0\d{3} nats \(test rows decide nothing\) "
        r"and probably better than the base model by 0\.\d{4} ± 0\.\d{4} nats\.",
        " ".join(found.figures),
    )


def test_no_better_than_the_base_on_test_rows_is_said(folder: Path) -> None:
    evaluated(folder, [0, 1], {"000": 0.0, "001": 1.0, "base": 20.0})
    evaluated(folder, [0, 1], {"000": 9.0, "001": 9.0, "base": 3.0}, part="test")
    found = conclude(read_sweep(folder))
    assert found is not None
    assert found.over_base == "The winner is not better than the base model on 64 test rows."


def test_in_16_bits_the_order_stays_and_the_figures_are_said(folder: Path) -> None:
    evaluated(folder, [0, 1], {"000": 0.0, "001": 1.0, "base": 20.0})
    asked = evaluated(folder, [0, 1], {"000": 5.0, "001": 1.0}, part="16-bit", quantization="none")
    assert asked == ["000", "001"]
    found = conclude(read_sweep(folder))
    assert found is not None and found.winner.number == 0
    assert " ".join(found.figures).endswith(
        "2.0000 on the search's sample. On the base model in 16 bits: eval loss 2.5000; probably "
        "worse than trial 1 by 0.4000 ± 0.0002 nats (16 bits decide nothing)."
    )


def test_why_it_is_not_measured_in_16_bits_is_said(folder: Path) -> None:
    evaluated(folder, [0, 1], {"000": 0.0, "001": 1.0, "base": 20.0})
    leave_out(folder, "16-bit", "needs 140 GiB")
    found = conclude(read_sweep(folder))
    assert found is not None
    assert " ".join(found.figures).endswith("Not measured in 16 bits: needs 140 GiB.")


def test_other_rows_or_another_precision_are_measured_anew(folder: Path) -> None:
    shifts = {"000": 0.0, "base": 20.0}
    evaluated(folder, [0], shifts)
    assert evaluated(folder, [0], {**shifts, "000": 1.0}, quantization="none") == ["000", "base"]
    assert read_final(folder).all.trials[0].value == pytest.approx(2.1)
    assert evaluated(folder, [0], shifts, part="test", rows="a") == ["000", "base"]
    assert evaluated(folder, [0], shifts, part="test", rows="a") == []
    assert evaluated(folder, [0], shifts, part="test", rows="b") == ["000", "base"]


@pytest.mark.parametrize("text", ["", "{}", '{"measurements": [0], "left_out": {}}', "[0, 1"])
def test_a_broken_plan_is_refused_in_words(folder: Path, text: str) -> None:
    evaluated(folder, [0], {"000": 0.0, "base": 20.0})
    (folder / "final" / "plan.json").write_text(text)
    with pytest.raises(StudyError, match=r"plan\.json: must hold the trial of each measurement"):
        read_final(folder)
