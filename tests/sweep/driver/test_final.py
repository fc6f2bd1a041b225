"""When the final evaluation is made, and how much of it the hours allow."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sweep.driver import loop
from sweep.driver.final import Finish
from sweep.results.final import read_final
from sweep.space.settings import FinalSettings
from sweep.study.budget import Budget
from sweep.study.ended import StoredTrial
from tests.inline_runner import InlineRunner
from tests.sweep.reviewed import make_config, measured, result
from trials.config import BY_EVAL_LOSS, Objective

ROWS = [10.0, 12.0, 14.0]


def finish(folder: Path, said: list[str], **changes: Any) -> Finish:
    """Of six ended trials with adapters, each of whose evaluations of 32 rows took 1 s."""
    given: dict[str, Any] = {"hours": None, "final": FinalSettings(), "rows": 64, "test": 0}
    given |= {"objective": BY_EVAL_LOSS, "quantization": "none", "plain_gib": 1.0} | changes
    for number in range(6):
        (folder / "trials" / f"{number:03d}" / "adapter").mkdir(parents=True, exist_ok=True)
    points = [{"index": n} for n in range(1, 5)]
    result = {"evaluation_seconds": 4.0, "best": {"eval_loss": 1.5}}
    ranked = [
        StoredTrial(number, {}, "completed", value=1.5, points=points, result=result)
        for number in range(6)
    ]
    budget = SimpleNamespace(hours=given["hours"])
    settings = SimpleNamespace(final=given["final"], budget=budget, gpus_per_trial=1)
    report = {
        "eval": {"rows": given["rows"] + 3, "dropped": 3},
        "eval_fingerprint": "eval rows",
        "sample_rows": 32,
        "memory": {"plain_gib": given["plain_gib"], "adapter_gib": 0.5},
    }
    if given["test"]:
        report |= {"test": {"rows": given["test"], "dropped": 0}, "test_fingerprint": "test rows"}
    job: Any = SimpleNamespace(
        output_dir=folder,
        on_gpus=False,
        options=SimpleNamespace(workers=1),
        space=SimpleNamespace(
            settings=settings, objective=given["objective"], quantization=given["quantization"]
        ),
        found=SimpleNamespace(report=report),
    )
    sweep: Any = SimpleNamespace(
        ranked=lambda n=None: ranked[:n], config_of=lambda trial: make_config(trial.number)
    )
    return Finish(job, sweep, said.append)


def made(final: Finish) -> list[list[int | None]]:
    """Measure all that is asked for; returns the trials of each part."""
    asked = []
    for found in final.evaluations():
        asked.append([each.trial for each in found.measurements])
        ended = InlineRunner(lambda config, report: result("completed", [measured(0, ROWS)]))
        loop.run(found, ended, Budget(None, None))
    return asked


def test_the_five_best_and_the_base_model_are_measured(tmp_path: Path) -> None:
    said: list[str] = []
    assert made(finish(tmp_path, said)) == [[0, 1, 2, 3, 4, None]]
    assert said == [
        "Final evaluation: the best 5 adapters and the base model on all 64 eval rows, about 12 s."
    ]
    assert not finish(tmp_path, []).is_due


def test_it_takes_no_more_than_its_share_of_the_hours(tmp_path: Path) -> None:
    """Six at 2 s each; 5 % of 200 s are 10 s, and of 60 s 3 s, too little for two and the base."""
    said: list[str] = []
    none = finish(tmp_path, said, hours=60 / 3600)
    assert not none.is_due
    assert made(none) == []
    assert said[-1] == (
        "Final evaluation: left out on all eval rows: about 12 s, but it may take 3 s (5% of "
        "budget.hours)."
    )
    some = finish(tmp_path, said, hours=200 / 3600)
    assert some.reserve() == pytest.approx(10.0)
    assert made(some) == [[0, 1, 2, 3, None]]


def test_then_the_first_two_on_test_rows_and_in_16_bits(tmp_path: Path) -> None:
    said: list[str] = []
    done = finish(tmp_path, said, test=32, quantization="nf4")
    assert done.reserve() == pytest.approx(6 * 2 + 3 * 1 + 2 * 2)
    assert made(done) == [[0, 1, 2, 3, 4, None], [0, 1, None], [0, 1]]
    assert said[1:] == [
        "Final evaluation: winner and second, and the base model, on 32 test rows, about 3 s.",
        "Final evaluation: winner and second on all 64 eval rows in 16 bits, about 4 s.",
    ]
    assert not finish(tmp_path, [], test=32, quantization="nf4").is_due


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"plain_gib": 139_500.0}, "needs 139,500 GiB"),
        ({"plain_gib": None}, "the checkpoint is quantised already"),
        ({"hours": 320 / 3600}, "about 4 s, but it may take 16 s (5% of budget.hours)"),
    ],
    ids=["too large", "quantised", "too long"],
)
def test_why_nothing_is_measured_in_16_bits_is_told(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    said: list[str] = []
    done = finish(tmp_path, said, quantization="nf4", test=32, **changes)
    assert made(done) == [[0, 1, 2, 3, 4, None], [0, 1, None]]
    assert said[-1] == f"Final evaluation: not measured in 16 bits: {why}."
    assert read_final(tmp_path).left_out == {"16-bit": why}


def test_the_base_in_16_bits_may_decide(tmp_path: Path) -> None:
    """Then all is measured on it, whatever the sample has; and once is enough."""
    said: list[str] = []
    final = FinalSettings(base="16-bit")
    done = finish(tmp_path, said, rows=32, quantization="nf4", test=32, final=final)
    for found in done.evaluations():
        kinds = {each.config.model.quantization for each in found.measurements}
        assert kinds == {"none"}
    assert said[0].startswith(
        "Final evaluation: the best 5 adapters and the base model on all 32 eval rows in 16 bits"
    )
    assert len(said) == 2


def test_without_it_nothing_is_measured_and_no_time_kept(tmp_path: Path) -> None:
    said: list[str] = []
    off = finish(tmp_path, said, hours=1.0, test=32, final=None)
    assert (made(off), off.is_due, off.reserve(), said) == ([], False, 0.0, [])


def test_a_metric_is_measured_too_though_the_sample_is_all_rows(tmp_path: Path) -> None:
    """Its rows are scored nowhere else."""
    judged = finish(tmp_path, [], rows=32, objective=Objective(name="rouge_l"))
    assert made(judged) == [[0, 1, 2, 3, 4, None]]


def test_where_the_sample_is_all_eval_rows_nothing_is_measured_again(tmp_path: Path) -> None:
    done = finish(tmp_path, [], rows=32)
    known = measured(4, [1.0, 2.0])
    best = {"eval_loss": known.eval_loss, "row_nlls": known.row_nlls}
    for trial in done.sweep.ranked(5):
        trial.result["best"] = best  # type: ignore[index]
    assert made(done) == []
