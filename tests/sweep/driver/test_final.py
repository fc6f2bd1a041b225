"""When the final evaluation is made, and how much of it the hours allow."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sweep.driver.final import Finish
from sweep.study.ended import StoredTrial
from tests.sweep.reviewed import make_config, measured
from trials.config import BY_EVAL_LOSS, Objective


def finish(folder: Path, said: list[str], **changes: Any) -> Finish:
    """Of six ended trials with adapters, each of whose evaluations of 32 rows took 1 s."""
    given: dict[str, Any] = {"hours": None, "final_evaluation": True, "rows": 64}
    given["objective"] = BY_EVAL_LOSS
    given |= changes
    for number in range(6):
        (folder / "trials" / f"{number:03d}" / "adapter").mkdir(parents=True, exist_ok=True)
    points = [{"index": n} for n in range(1, 5)]
    result = {"evaluation_seconds": 4.0, "best": {"eval_loss": 1.5}}
    ranked = [
        StoredTrial(number, {}, "completed", value=1.5, points=points, result=result)
        for number in range(6)
    ]
    budget = SimpleNamespace(hours=given["hours"])
    settings = SimpleNamespace(final_evaluation=given["final_evaluation"], budget=budget)
    job: Any = SimpleNamespace(
        output_dir=folder,
        space=SimpleNamespace(settings=settings, objective=given["objective"]),
        found=SimpleNamespace(
            report={"eval": {"rows": given["rows"] + 3, "dropped": 3}, "sample_rows": 32}
        ),
    )
    sweep: Any = SimpleNamespace(
        ranked=lambda n=None: ranked[:n], config_of=lambda trial: make_config(trial.number)
    )
    return Finish(job, sweep, said.append)


def test_the_five_best_and_the_base_model_are_measured(tmp_path: Path) -> None:
    said: list[str] = []
    found = finish(tmp_path, said).evaluation()
    assert found is not None
    assert [each.trial for each in found.measurements] == [0, 1, 2, 3, 4, None]
    assert said == [
        "Final evaluation: the best 5 adapters and the base model on all 64 eval rows, about 12 s."
    ]


def test_it_takes_no_more_than_its_share_of_the_hours(tmp_path: Path) -> None:
    """Six at 2 s each; 5 % of 200 s are 10 s, and of 60 s 3 s, too little for two and the base."""
    said: list[str] = []
    some = finish(tmp_path, said, hours=200 / 3600)
    found = some.evaluation()
    assert found is not None
    assert [each.trial for each in found.measurements] == [0, 1, 2, 3, None]
    assert some.reserve() == pytest.approx(10.0)
    none = finish(tmp_path, said, hours=60 / 3600)
    assert none.evaluation() is None
    assert not none.is_due
    assert said[-1] == (
        "Final evaluation left out: about 12 s on all eval rows, but it may take 3 s (5% of "
        "budget.hours)."
    )


@pytest.mark.parametrize(
    "changes",
    [{"final_evaluation": False}, {"objective": Objective(name="exact_match")}],
    ids=["switched off", "a metric"],
)
def test_without_it_nothing_is_measured_and_no_time_kept(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    said: list[str] = []
    off = finish(tmp_path, said, hours=1.0, **changes)
    assert (off.evaluation(), off.is_due, off.reserve(), said) == (None, False, 0.0, [])


def test_where_the_sample_is_all_eval_rows_nothing_is_measured_again(tmp_path: Path) -> None:
    done = finish(tmp_path, [], rows=32)
    known = measured(4, [1.0, 2.0])
    best = {"eval_loss": known.eval_loss, "row_nlls": known.row_nlls}
    for trial in done.sweep.ranked(5):
        trial.result["best"] = best  # type: ignore[index]
    assert done.evaluation() is None
