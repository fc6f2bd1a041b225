"""A metric of one's own: what the file may say, and that all that ranks follows its direction."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.study import StudyDirection

from sweep.cluster import package
from sweep.driver.loop import run
from sweep.errors import SpaceError
from sweep.folder import layout
from sweep.pruners.overfit import Overfit
from sweep.pruners.peers import OptunaPruner
from sweep.results.reading import read_sweep
from sweep.space.loading import load_space
from sweep.space.objective import objective_of
from sweep.space.settings import ObjectiveSettings, OutclassedSettings
from sweep.space.space import Space
from sweep.storage.patient import storage_url
from sweep.study.budget import Budget
from sweep.study.opening import open_study
from sweep.study.sweep import Sweep
from tests.inline_runner import InlineRunner
from tests.sweep.study.test_sweep import point, resolve
from trials.config import EvalPoint, Objective, Report, TrialConfig, TrialResult

METRIC = """\
import a_module_that_is_not_there

def score(predictions, references, rows):
    return 1.0

def of_two(predictions, references):
    return 1.0

async def later(predictions, references, rows):
    return 1.0

def eval_loss(predictions, references, rows):
    return 1.0
"""
OWN = Objective(name="score", direction="maximize", python="my_metrics.py:score")


def a_space(folder: Path, objective: str, **more: str) -> Space:
    (folder / "rows.jsonl").write_text("{}")
    (folder / "my_metrics.py").write_text(METRIC)
    extra = "".join(f"{key}: {value}\n" for key, value in more.items())
    path = folder / "space.yaml"
    path.write_text(
        "base_model: none\n"
        "data: {train: rows.jsonl, eval: 0.1}\n"
        f"objective: {objective}\n"
        "search: {rank: [2, 4, 8, 16, 32, 64]}\n"
        "evaluate: {times: 4}\n" + extra
    )
    return load_space(path)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("{}", Objective()),
        ("{metric: eval_loss}", Objective()),
        ("{metric: exact_match}", Objective(name="exact_match", direction="maximize")),
        (
            "{metric: rouge_l, direction: maximize, rows: 32}",
            Objective(name="rouge_l", direction="maximize"),
        ),
        ("{python: my_metrics.py:score, direction: maximize}", OWN),
    ],
)
def test_what_the_file_says_is_what_a_trial_is_told(
    tmp_path: Path, objective: str, expected: Objective
) -> None:
    assert a_space(tmp_path, objective).objective == expected


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ("{metric: accuracy}", "line 3   objective.metric: must be one of eval_loss, token_acc"),
        ("{metric: exact_match, direction: minimize}", "direction: must be maximize for exact_ma"),
        ("{metric: exact_match, python: my_metrics.py:score}", "metric: cannot go with python"),
        (
            "{python: my_metrics.py:score}",
            "objective.direction: is missing; .* maximize` if higher",
        ),
        ("{metric: token_accuracy, rows: 8}", "objective.rows: has no effect on token_accuracy"),
        ("{max_new_tokens: 8}", "objective.max_new_tokens: has no effect on eval_loss"),
        ("exact_match", "must be keys and values, not .*; write `objective: {metric: exact_match}"),
        ("{python: my_metrics, direction: minimize}", "must be a file and a function in it"),
        ("{python: my_metric.py:score, direction: minimize}", "did you mean my_metrics.py?"),
        ("{python: my_metrics.py:scores, direction: minimize}", "did you mean score?"),
        (
            "{python: my_metrics.py:of_two, direction: minimize}",
            r"called with 3 arguments .* defined as of_two\(predictions, references\)",
        ),
        ("{python: my_metrics.py:later, direction: minimize}", "a plain function, not async"),
        ("{python: my_metrics.py:eval_loss, direction: minimize}", "is already logged for every"),
        ("{python: 3, direction: minimize}", "objective.python: must be text, not the number 3"),
    ],
)
def test_each_mistake_is_told_with_its_mend(tmp_path: Path, objective: str, words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        a_space(tmp_path, objective)


def test_all_mistakes_of_the_section_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="3 problems") as error:
        a_space(tmp_path, "{python: none.py:f}", backend="unsloth")
    for place in ("objective.python: no such file", "objective.direction", "line 6   backend"):
        assert place in str(error.value)


def test_python_that_does_not_parse_is_told_with_its_line(tmp_path: Path) -> None:
    a_space(tmp_path, "{}")
    (tmp_path / "broken.py").write_text("x = 1\ndef score(:\n")
    path = tmp_path / "space.yaml"
    text = "{python: broken.py:score, direction: maximize}"
    path.write_text(path.read_text().replace("objective: {}", f"objective: {text}"))
    with pytest.raises(SpaceError, match="broken.py is not valid Python: line 2"):
        load_space(path)


def scored(index: int, score: float, eval_loss: float = 2.0) -> EvalPoint:
    return replace(point(index, eval_loss, 2.0 - index / 10), score=score)


def replaying(*curves: list[float]) -> Any:
    """A trial whose scores are given."""

    def trial(config: TrialConfig, report: Report) -> TrialResult:
        points = [scored(i, s) for i, s in enumerate(curves[config.number % len(curves)], 1)]
        verdicts = [verdict for p in points if (verdict := report(p))]
        best = max(points, key=lambda p: p.value)
        return TrialResult(
            outcome=verdicts[0].outcome if verdicts else "completed", reason="", best=best
        )

    return trial


def test_the_study_has_the_direction_and_the_true_values(tmp_path: Path) -> None:
    space = a_space(tmp_path, "{metric: exact_match}")
    url = storage_url(tmp_path)
    study = open_study(space, url)
    study.set_user_attr("task", {"objective": json.loads(json.dumps({"name": "exact_match",
        "direction": "maximize", "rows": 64})), "evaluations": 4})  # fmt: skip
    sweep = Sweep(space, study, resolve)
    trial = replaying([0.1, 0.4, 0.3, 0.2], [0.1, 0.2, 0.5, 0.5], [0.0, 0.1, 0.1, 0.1])
    run(sweep, InlineRunner(trial), Budget(3, None))
    assert study.direction is StudyDirection.MAXIMIZE
    assert [t.value for t in study.trials] == [0.4, 0.5, 0.1]
    assert study.best_trial.number == 1
    assert study.trials[0].intermediate_values == {1: 0.1, 2: 0.4, 3: 0.3, 4: 0.2}
    assert [t.number for t in sweep.ranked()] == [1, 0, 2]
    assert [t.eval_loss for t in sweep.ranked()] == [2.0, 2.0, 2.0]
    assert read_sweep(tmp_path).objective.name == "exact_match"
    assert sweep.is_flat(1)
    assert not sweep.is_flat(2)


def test_a_sweep_is_flat_when_the_score_no_longer_rises(tmp_path: Path) -> None:
    space = a_space(tmp_path, "{metric: exact_match}")
    sweep = Sweep(space, open_study(space, "sqlite:///:memory:"), resolve)
    run(sweep, InlineRunner(replaying([0.1, 0.2, 0.3, 0.4], [0.1, 0.1, 0.2, 0.3])),
        Budget(3, None))  # fmt: skip
    assert sweep.is_flat(2)


EXACT = Objective(name="exact_match", direction="maximize")
OVERFIT = Overfit(min_rise=0.02, patience=3, objective=EXACT)
RISING = [2.0, 1.5, 1.6, 1.7, 1.8]


def curve(scores: list[float], eval_losses: list[float]) -> list[EvalPoint]:
    return [scored(i, s, e) for i, (s, e) in enumerate(zip(scores, eval_losses, strict=True), 1)]


def test_a_trial_whose_answers_still_get_better_is_not_overfit_though_its_loss_rises() -> None:
    assert OVERFIT.reason(curve([0.1, 0.2, 0.2, 0.3, 0.3], RISING)) is None


def test_it_is_when_the_loss_rises_and_the_answers_get_no_better() -> None:
    reason = OVERFIT.reason(curve([0.1, 0.3, 0.2, 0.3, 0.2], RISING))
    assert reason is not None
    assert reason.endswith("exact_match has not improved since 0.3000 at step 2.")


def test_a_score_that_falls_by_chance_ends_no_trial() -> None:
    assert OVERFIT.reason(curve([0.3, 0.2, 0.1, 0.1, 0.1], [2.0, 1.9, 1.8, 1.7, 1.6])) is None


@pytest.mark.parametrize("pruner", ["successive_halving", "median"])
def test_peers_with_higher_scores_outclass_a_trial(tmp_path: Path, pruner: Any) -> None:
    pruning = "{outclassed: {pruner: successive_halving, factor: 4}}"
    space = a_space(tmp_path, "{metric: exact_match}", pruning=pruning)
    study = open_study(space, "sqlite:///:memory:")
    sweep = Sweep(space, study, resolve)
    good = replaying([0.5, 0.6, 0.7, 0.8])
    run(sweep, InlineRunner(good), Budget(5, None))
    outclassed = OptunaPruner(OutclassedSettings(pruner=pruner, factor=4), EXACT, n_evaluations=20)
    for score, is_worse in ((0.1, True), (0.9, False)):
        trial = study.ask()
        trial.report(score, 1)
        reason = outclassed.reason(study, trial, scored(1, score))
        assert (reason is not None) is is_worse
        if reason:
            assert "exact_match 0.1000 (1 step): 6th of 6 at this share of a run" in reason
            assert "the best had 0.5000" in reason


def test_the_metric_travels_with_a_job(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    space = a_space(tmp_path / "here", "{python: my_metrics.py:score, direction: maximize}")
    package.pack_space(tmp_path / "here" / "space.yaml", space, {}, tmp_path / "there")
    there = load_space(tmp_path / "there" / layout.SPACE)
    assert there.objective == OWN
    assert there.metric_file is not None and there.metric_file.read_text() == METRIC
    assert there.metric_file.is_relative_to(tmp_path / "there")


def test_a_built_in_metric_needs_no_direction() -> None:
    assert objective_of(ObjectiveSettings(metric="rouge_l")).direction == "maximize"
