"""report.html says what the study says, holds no one else's markup, and loads nothing."""

from __future__ import annotations

import json
import random
import re
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import optuna
import plotly.graph_objects as go
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import BaseStorage
from optuna.trial import TrialState, create_trial

from sweep.errors import StudyError
from sweep.report import charts
from sweep.report.charts import N_CURVES, N_POINTS, thinned
from sweep.report.overfitting import N_TRIALS
from sweep.report.page import page
from sweep.report.sections import saved_seconds
from sweep.results.conclusion import conclude
from sweep.results.reading import StoredSweep, read_sweep
from sweep.storage.attributes import STATES
from sweep.storage.patient import storage_url
from sweep.study.ended import StoredTrial
from sweep.study.importance import importances
from trials.config import Objective, Outcome

SPACE = {
    "rank": CategoricalDistribution([8, 16, 64]),
    "learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
}
OUTCOMES: list[Outcome] = ["completed", "overfit", "outclassed", "diverged", "out_of_memory"]
BEGAN = datetime(2026, 1, 1)


def add(
    study: optuna.Study,
    outcome: Outcome,
    losses: list[float],
    reason: str = "So it was.",
    told: int = 0,
    ended: datetime | None = None,
    **params: Any,
) -> None:
    """An ended trial, as a sweep leaves it in its study: 100 s for each evaluation."""
    number = len(study.get_trials(deepcopy=False))
    best = min(losses, default=None)
    seconds = {"training_seconds": 90.0 * len(losses), "evaluation_seconds": 10.0 * len(losses)}
    index = 0 if best is None else losses.index(best) + 1
    epoch = None if best is None else {"epoch": 0.5 * index, "index": index}
    known: dict[str, Any] = {
        "hyperparameters": {"epochs": 2.0, **params},
        "outcome": outcome,
        "outcome_reason": reason,
        "result": {**seconds, "best": epoch},
        "curve": [
            {"index": i, "epoch": 0.5 * i, "eval_loss": loss, "train_loss": 2.5 - 0.2 * i}
            for i, loss in enumerate(losses, start=1)
        ],
        **({"told": [told]} if told else {}),
    }
    if best is not None:
        known["eval_loss_best"] = best
    state = STATES[outcome]
    trial = create_trial(
        state=state,
        value=best if state is TrialState.COMPLETE else None,
        params=params,
        distributions=SPACE,
        user_attrs=known,
        intermediate_values=dict(enumerate(losses, start=1)),
    )
    trial.datetime_start = BEGAN + timedelta(minutes=number)
    trial.datetime_complete = ended or BEGAN + timedelta(minutes=number + 3)
    study.add_trial(trial)


def new_study(storage: str | BaseStorage, name: str) -> optuna.Study:
    study = optuna.create_study(study_name=name, storage=storage)
    study.set_user_attr("task", {"evaluations": 4})
    study.set_user_attr("base_eval_loss", 3.0)
    study.set_user_attr("gpu_seconds", 7200.0)
    study.set_user_attr("state", ["finished", "", 0.0])
    return study


def fill(study: optuna.Study, n_trials: int) -> None:
    """Trials whose loss follows from the learning rate, best near 1e-3, with some noise."""
    chance = random.Random(0)
    for _ in range(n_trials):
        exponent, rank = chance.uniform(-5, -2), chance.choice([8, 16, 64])
        outcome = chance.choices(OUTCOMES, [4, 3, 6, 1, 1])[0]
        floor = 1.2 + 0.15 * (exponent + 3) ** 2 + chance.gauss(0, 0.01)
        losses = [floor + 1.2 * 0.35**i + chance.gauss(0, 0.004) for i in range(4)]
        if outcome == "overfit":
            losses = [*losses[:2], losses[1] + 0.05, losses[1] + 0.1]
        n = {"outclassed": 1, "diverged": 2, "out_of_memory": 0}.get(outcome, 4)
        add(study, outcome, losses[:n], rank=rank, learning_rate=10**exponent)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "tiny"


@pytest.fixture
def study(folder: Path) -> optuna.Study:
    folder.mkdir()
    return new_study(storage_url(folder), "tiny")


class Elements(HTMLParser):
    """All elements of a page, and what they load."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.loads += [str(value) for name, value in attrs if name in ("src", "href", "srcset")]


def elements(html: str) -> Elements:
    found = Elements()
    found.feed(html)
    return found


def figures(html: str) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', html)
    assert found
    loaded: list[dict[str, Any]] = json.loads(found[1])
    return loaded


def words(html: str) -> str:
    return re.sub(r"<[^>]+>", "", html[html.index("<body>") : html.index("<script")])


def test_the_page_loads_nothing(folder: Path, study: optuna.Study) -> None:
    fill(study, 40)
    html = page(read_sweep(folder))
    found = elements(html)
    assert found.loads == []
    assert not {"link", "img", "iframe"} & set(found.names)
    assert "default-src 'none'" in html
    assert not re.search(r"@import|url\(", html[: html.index("<body>")])


def test_what_comes_from_outside_is_no_markup(folder: Path, study: optuna.Study) -> None:
    bad = "<script>alert(1)</script>"
    add(study, "completed", [2.0, 1.5, 1.4, 1.4], rank=8, learning_rate=1e-4)
    add(study, "failed", [], reason=bad, rank=16, learning_rate=1e-4)
    add(study, "out_of_memory", [], reason=bad, rank=64, learning_rate=1e-4)
    html = page(read_sweep(folder))
    assert elements(html).names.count("script") == 3  # figures, plotly, ours
    assert html.count("&lt;script&gt;alert(1)") == 3  # why each ended, and what ran out of memory
    assert bad not in html


def test_every_figure_is_one_that_plotly_knows(folder: Path, study: optuna.Study) -> None:
    fill(study, 40)
    found = figures(page(read_sweep(folder)))
    assert len(found) == 9 + N_TRIALS
    for figure in found:
        go.Figure(figure)  # raises at a property that does not exist


def two(study: optuna.Study, second: float) -> None:
    """The winner at 1.4 and another; late evaluations move by 0.01 in both."""
    add(study, "completed", [2.0, 1.5, 1.41, 1.4], rank=8, learning_rate=1e-4)
    losses = [2.0, 1.8, second + 0.01, second]
    add(study, "completed", losses, rank=16, learning_rate=1e-4)


def test_the_headline_names_winner_and_base(folder: Path, study: optuna.Study) -> None:
    two(study, second=1.5)
    text = words(page(read_sweep(folder)))
    assert "Trial 0 has the lowest eval loss, with rank 8." in text
    assert "Eval loss 1.4000 vs 3.0000 for the base model" in text


def test_a_winner_no_better_than_the_base_model_is_said(folder: Path, study: optuna.Study) -> None:
    study.set_user_attr("base_eval_loss", 1.395)
    two(study, second=1.5)
    assert "The winner is not better than the base model." in words(page(read_sweep(folder)))


def test_few_trials_have_no_importance(folder: Path, study: optuna.Study) -> None:
    two(study, second=1.5)
    assert importances(read_sweep(folder).frozen) == []
    assert "2 trials with an eval loss that counts: too few" in page(read_sweep(folder))


def test_what_decides_the_loss_is_what_mattered(folder: Path, study: optuna.Study) -> None:
    fill(study, 120)
    first, second = importances(read_sweep(folder).frozen)
    assert (first.name, second.name) == ("learning_rate", "rank")
    assert first.low > second.high


def test_what_pruning_saved_is_the_rest_of_the_run(folder: Path, study: optuna.Study) -> None:
    add(study, "outclassed", [2.0], rank=8, learning_rate=1e-4)  # 100 s for a quarter
    add(study, "completed", [2.0, 1.5, 1.4, 1.4], rank=8, learning_rate=1e-4)
    add(study, "diverged", [], rank=16, learning_rate=1e-2)  # nothing to estimate from
    seconds, n_trials = saved_seconds(read_sweep(folder))
    assert seconds == pytest.approx(300.0) and n_trials == 1


def test_a_sweep_that_has_just_begun_has_a_page(folder: Path, study: optuna.Study) -> None:
    study.ask().set_user_attr("hyperparameters", {"rank": 8})
    html = page(read_sweep(folder))
    assert "No winner: no trial has reached" in html
    assert figures(html) == []


def test_ends_keep_their_order_though_the_clock_was_set_back(
    folder: Path, study: optuna.Study
) -> None:
    for told, (hours, loss) in enumerate([(2, 1.9), (-1, 1.7), (1, 1.5)], start=1):
        ended = BEGAN + timedelta(hours=hours)
        add(study, "completed", [loss] * 4, told=told, ended=ended, rank=8, learning_rate=1e-4)
    sweep = read_sweep(folder)
    (line,) = charts.best_by_trial(sweep)["data"]
    assert (line["x"], line["y"]) == ([1, 2, 3, 3], [1.9, 1.7, 1.5, 1.5])
    (line,) = charts.best_by_time(sweep)["data"]
    assert line["x"] == [2.0, 2.0, 2.0, 2.0]


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="has no study"):
        read_sweep(tmp_path)


def many(folder: Path, n_trials: int) -> StoredSweep:
    folder.mkdir()
    storage = optuna.storages.InMemoryStorage()
    fill(new_study(storage, folder.name), n_trials)
    return read_sweep(folder, storage)


def test_of_many_trials_some_are_drawn_and_the_page_says_so(folder: Path) -> None:
    html = page(many(folder, 2500))
    assert f"{N_CURVES} of 2," in words(html)
    assert f"{N_POINTS:,} of 2," in words(html)
    assert len(html) < 9e6
    n_dots = [sum(len(t.get("x") or []) for t in figure["data"]) for figure in figures(html)]
    assert max(n_dots) <= max(N_POINTS, 5 * N_CURVES)


def test_of_many_trials_of_a_metric_the_best_are_among_those_drawn() -> None:
    trials = [StoredTrial(n, {}, "completed", value=n / 100) for n in range(100)]
    drawn = thinned(trials, 8, Objective(name="exact_match", direction="maximize"))
    assert [trial.number for trial in drawn[:2]] == [99, 98]


def captions(html: str) -> list[str]:
    return [
        words(f"<body>{it}<script") for it in re.findall(r"<figcaption>(.*?)</figcaption>", html)
    ]


def test_train_and_eval_loss_are_drawn_for_the_best_trials_the_winner_first(
    folder: Path, study: optuna.Study
) -> None:
    add(study, "completed", [2.0, 1.5, 1.45, 1.5], rank=8, learning_rate=1e-4)
    add(study, "overfit", [2.0, 1.4, 1.5, 1.6], rank=8, learning_rate=1e-3)
    add(study, "outclassed", [9.0], rank=16, learning_rate=1e-4)
    html = page(read_sweep(folder))
    assert captions(html) == [
        "001 overfit 1.4000, winner",
        "000 completed 1.4500",
        "002 outclassed 9.0000, on an axis of its own",
    ]
    first, second, third = (
        figure for figure in figures(html) if figure["layout"].get("shapes") is not None
    )
    assert [trace["name"] for trace in first["data"]] == ["train", "eval", "best"]
    assert first["data"][2]["x"] == [1.0]
    [shade] = first["layout"]["shapes"]
    assert (shade["x0"], shade["x1"]) == (1.0, 2.0)
    assert first["layout"]["yaxis"]["range"] == second["layout"]["yaxis"]["range"]
    assert "range" not in third["layout"]["yaxis"]


def test_of_more_trials_than_are_drawn_one_by_one_the_page_says_how_to_see_the_others(
    folder: Path, study: optuna.Study
) -> None:
    for _ in range(N_TRIALS + 1):
        add(study, "completed", [2.0, 1.5, 1.45, 1.4], rank=8, learning_rate=1e-4)
    said = words(page(read_sweep(folder)))
    assert f"{N_TRIALS} of {N_TRIALS + 1} trials are drawn; any other: sweep show tiny" in said


def test_a_trial_beyond_the_axis_is_marked_at_its_edge(folder: Path, study: optuna.Study) -> None:
    for _ in range(5):
        add(study, "completed", [2.0, 1.5, 1.45, 1.4], rank=8, learning_rate=1e-4)
    add(study, "outclassed", [4.6], rank=16, learning_rate=1e-3)
    sweep = read_sweep(folder)
    figure = charts.curves(sweep, sweep.ranked[0])
    [marked] = [trace for trace in figure["data"] if trace["name"] == "beyond the edge"]
    assert marked["text"] == ["trial 005, outclassed: 4.6000"]
    assert marked["y"] == [figure["layout"]["yaxis"]["range"][1]]
    figure = charts.one_slice(sweep, "rank")
    [dots] = [trace for trace in figure["data"] if trace["name"] == "outclassed"]
    assert dots["y"] == [figure["layout"]["yaxis"]["range"][1]]
    assert dots["marker"]["symbol"] == ["triangle-up"]


def test_a_hyperparameter_that_no_trial_with_a_value_has_is_drawn_empty(
    folder: Path, study: optuna.Study
) -> None:
    two(study, second=1.5)
    assert charts.one_slice(read_sweep(folder), "of a later version")["data"] == []


def test_where_overfitting_began_is_said_in_words(folder: Path, study: optuna.Study) -> None:
    for n in range(4):  # at a higher rate it begins sooner
        losses = [1.9, 1.8, 1.7, 1.6][: 4 - n] + [2.0] * n
        add(study, "overfit", losses, rank=8, learning_rate=1e-4 * 2**n)
    add(study, "overfit", [1.6, 2.0, 2.0, 2.0], rank=8, learning_rate=1e-2)
    said = words(page(read_sweep(folder)))
    assert (
        "5 of 5 trials overfit. Their eval loss was lowest after 1 epoch (median; 0.5 to 2)" in said
    )
    assert "The higher the learning rate, the sooner it began." in said


def test_where_none_overfit_the_page_says_whether_more_epochs_may_gain(
    folder: Path, study: optuna.Study
) -> None:
    two(study, second=1.5)
    said = words(page(read_sweep(folder)))
    assert (
        "Of 2 completed trials, 2 reached the best at the very end. More epochs may gain." in said
    )


def test_a_stopped_sweep_is_told_with_the_command_that_resumes_it(
    folder: Path, study: optuna.Study
) -> None:
    two(study, second=1.5)
    study.set_user_attr("state", ["stopped", "", 0.0])
    said = words(page(read_sweep(folder)))
    assert (
        f"the same sweep run resumes it: sweep run --resume tiny --output {folder.parent}" in said
    )


def test_the_page_says_why_each_trial_ended(folder: Path, study: optuna.Study) -> None:
    two(study, second=1.5)
    add(
        study,
        "diverged",
        [2.0, 9.0],
        reason="Eval loss 9 is far above.\nlog",
        rank=8,
        learning_rate=1e-2,
    )
    assert "002divergedEval loss 9 is far above." in words(page(read_sweep(folder)))


def test_the_page_ends_with_how_to_train_the_winner_again(
    folder: Path, study: optuna.Study
) -> None:
    two(study, second=1.5)
    said = words(page(read_sweep(folder)))
    assert f"sweep trial {folder}/space.yaml --number 0 --output {folder.parent}" in said
    assert f"sweep best tiny --output {folder.parent} --yaml trl" in said


def test_the_winner_of_the_charts_is_that_of_the_headline(
    folder: Path, study: optuna.Study
) -> None:
    two(study, second=1.5)
    sweep = read_sweep(folder)
    figure = charts.curves(sweep, sweep.trials[1])
    [line] = [trace for trace in figure["data"] if trace["name"] == "winner"]
    assert line["text"][0] == "trial 001, the winner"
    found = conclude(sweep)
    assert found is not None
    assert f"{found.winner.number:03d} winner" in words(page(sweep))
