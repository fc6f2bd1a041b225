"""The final evaluation: what is measured, what is not measured again, and who wins by it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sweep.confirm.plan import plan as confirmation
from sweep.driver import loop
from sweep.errors import StudyError
from sweep.export.model_card import model_card
from sweep.results.conclusion import conclude
from sweep.results.final import read_final
from sweep.results.reading import read_sweep
from sweep.results.trial_record import record_of
from sweep.study.budget import Budget
from sweep.study.final import FinalEvaluation, plan
from tests.inline_runner import InlineRunner
from tests.sweep.reviewed import make_config, measured, result, write_sweep
from trials.config import Report, TrialConfig, TrialResult

SAMPLE = np.linspace(10.0, 30.0, 16)
ALL = np.linspace(10.0, 30.0, 64)
FAULT = TrialResult(outcome="failed", reason="Its machine was lost.", fault="machine_lost")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three trials; on the sample the first is the best, then the second."""
    curves = [[measured(4, SAMPLE + shift)] for shift in (0.0, 0.5, 9.0)]
    trials = [(make_config(n), result("completed", c), c) for n, c in enumerate(curves)]
    return write_sweep(tmp_path / "mine", trials)


def evaluated(
    folder: Path, trials: Sequence[int], shifts: dict[str, float], lost: Sequence[str] = ()
) -> list[str]:
    """Measure trials whose rows cost so much more than usual; returns what was measured."""
    final = FinalEvaluation(plan(folder, {number: make_config(number) for number in trials}))
    asked, to_lose = [], list(lost)

    def trial(config: TrialConfig, report: Report) -> TrialResult:
        adapter = Path(config.measured_adapter)
        name = adapter.parent.name if config.measured_adapter else "base"
        asked.append(name)
        if name in to_lose:
            to_lose.remove(name)
            return FAULT
        assert config.measured_rows == "eval"
        assert config.model.backend == "transformers"
        return result("completed", [measured(0, ALL + shifts[name])])

    if final.n_to_do:
        loop.run(final, InlineRunner(trial), Budget(None, None))
    return asked


def test_the_best_and_the_base_are_measured_once(folder: Path) -> None:
    shifts = {"000": 1.0, "001": 0.5, "002": 2.0, "base": 20.0}
    assert evaluated(folder, [0, 1], shifts) == ["000", "001", "base"]
    assert evaluated(folder, [0, 1], shifts) == []
    assert evaluated(folder, [0, 2], shifts) == ["002"]
    found = read_final(folder)
    assert sorted(found.trials) == [0, 1, 2]
    assert found.base is not None and found.base.n_rows == 64


def test_all_rows_decide_who_has_won(folder: Path) -> None:
    evaluated(folder, [0, 1, 2], {"000": 3.0, "001": 0.0, "002": 9.0, "base": 20.0})
    sweep = read_sweep(folder)
    assert (sweep.best, record_of(sweep).trial.number) == (0, 1)
    found = conclude(sweep)
    assert found is not None
    assert found.winner.number == 1
    assert found.on_all_rows.startswith("On all 64 eval rows: eval loss 2.0000")
    assert found.how.startswith("95 % interval over 64 eval rows and one seed each")
    card = model_card(record_of(sweep), is_merged=False, data="d", template=None, arguments={})
    assert "2.0000 nats per supervised token on all 64 eval rows. The base model has 4.0000" in card
    (run,) = confirmation(sweep, top=1, n_seeds=1)
    assert run.trial == 1


def test_a_trial_that_came_later_is_not_passed_over_for_one_that_was_measured(folder: Path) -> None:
    """All rows say nothing of it yet, and on the sample it is the best."""
    evaluated(folder, [1, 2], {"001": 0.0, "002": -1.0, "base": 20.0})
    found = conclude(read_sweep(folder))
    assert found is not None and found.winner.number == 0


def test_a_measurement_that_was_lost_is_made_again(folder: Path) -> None:
    shifts = {"000": 0.0, "base": 20.0}
    assert evaluated(folder, [0], shifts, lost=["000"]) == ["000", "base", "000"]
    assert sorted(read_final(folder).trials) == [0]


def test_one_that_is_lost_every_time_is_told(folder: Path) -> None:
    final = FinalEvaluation(plan(folder, {0: make_config(0)}))
    loop.run(final, InlineRunner(lambda config, report: FAULT), Budget(None, None))
    assert final.failures == ["Its machine was lost."] * 2


@pytest.mark.parametrize("text", ["", "{}", '[0, "base"]', "[0, 1"])
def test_a_broken_plan_is_refused_in_words(folder: Path, text: str) -> None:
    evaluated(folder, [0], {"000": 0.0, "base": 20.0})
    (folder / "final" / "plan.json").write_text(text)
    with pytest.raises(StudyError, match=r"plan\.json: must hold the trial of each measurement"):
        read_final(folder)
