"""The search changes, the study goes on: real studies on disk, each run with another search."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.trial import TrialState

from sweep.samplers.choice import make_sampler
from sweep.samplers.search_space import distributions, hyperparameters, params_of
from sweep.space.loading import load_space
from sweep.space.space import Space
from sweep.storage import attributes
from sweep.storage.attributes import PAUSED, POINT
from sweep.storage.optuna_private import storage_of
from sweep.storage.patient import storage_url
from sweep.study.next_trial import View, enqueue_starts, first_trials, new_trial
from sweep.study.opening import open_study
from sweep.study.task import rows_so_far, search_changes

Point = Mapping[str, Any]


class Searched:
    """A study on disk; each `run` opens it anew, with a search that may be another."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "rows.jsonl").write_text("{}")

    def space(self, search: str, *more: str) -> Space:
        path = self._folder / "space.yaml"
        lines = ["base_model: none", "data: {train: rows.jsonl, eval: 0.1}", f"search: {search}"]
        path.write_text("\n".join([*lines, *more]))
        return load_space(path)

    def open(self, space: Space) -> optuna.Study:
        study = open_study(space, storage_url(self._folder))
        enqueue_starts(study, space)
        return study

    def run(self, space: Space, n_trials: int, loss: Callable[[Point], float]) -> list[Point]:
        """The points of the next trials."""
        study, points = self.open(space), []
        view = View(study, space)
        for _ in range(n_trials):
            trial = view.next_trial()
            points.append(trial.user_attrs[POINT])
            study.tell(trial, loss(points[-1]))
        return points


@pytest.fixture
def searched(tmp_path: Path) -> Searched:
    return Searched(tmp_path)


def flat(point: Point) -> float:
    return 1.0


CHANGES = [
    ("learning_rate", "{min: 1e-4, max: 1e-3}", "{min: 1e-5, max: 1e-2}"),
    ("learning_rate", "{min: 1e-5, max: 1e-2}", "{min: 1e-4, max: 1e-3}"),
    ("learning_rate", "{min: 1e-5, max: 1e-2}", "{min: 1e-5, max: 1e-2, log: true}"),
    ("learning_rate", "{min: 1e-5, max: 1e-2, log: true}", "{min: 1e-5, max: 1e-2}"),
    ("learning_rate", "{min: 1e-5, max: 1e-2, log: true}", "[1e-4, 2e-4, 3e-4]"),
    ("learning_rate", "2e-4", "{min: 1e-5, max: 1e-2, log: true}"),
    ("learning_rate", "{min: 1e-5, max: 1e-2, log: true}", "2e-4"),
    ("rank", "[8, 16, 64]", "[4, 8, 16, 32, 64]"),
    ("rank", "[4, 8, 16, 32, 64]", "[8, 64]"),
    ("rank", "[8, 16]", "{min: 4, max: 64, log: true}"),
    ("rank", "{min: 4, max: 64, step: 4}", "[8, 16]"),
    ("epochs", "[1, 2]", "[0.5, 1]"),
    ("epochs", "1", "{min: 0.5, max: 2, step: 0.5}"),
    ("lr_scheduler", "[cosine, linear]", "[linear, constant, warmup_stable_decay]"),
    ("lr_scheduler", "cosine", "[linear, cosine]"),
    ("use_rslora", "false", "[true, false]"),
    ("alpha", "{times_rank: [1, 2]}", "[16, 32]"),
    ("alpha", "[16, 32, 64]", "{times_rank: {min: 0.5, max: 4}}"),
    ("alpha", "{times_rank: 1}", "{times_rank: [0.5, 1, 2]}"),
    ("alpha", "{min: 8, max: 64}", "{times_rank: [1, 2]}"),
]


@pytest.mark.parametrize(("name", "before", "after"), CHANGES)
def test_a_study_goes_on_with_another_search(
    searched: Searched, name: str, before: str, after: str
) -> None:
    beside = "dropout: {min: 0, max: 0.1}" + ("" if name == "rank" else ", rank: [8, 16]")
    first, second = (
        searched.space(f"{{{name}: {domain}, {beside}}}") for domain in (before, after)
    )
    earlier = searched.run(first, 10, lambda point: point["dropout"])
    later = searched.run(second, 3, lambda point: point["dropout"])
    study = searched.open(second)
    assert [trial.user_attrs[POINT] for trial in study.trials] == [*earlier, *later]
    inside = [params_of(second, point).keys() == distributions(second).keys() for point in later]
    assert all(inside)
    back = searched.run(first, 1, flat)
    assert all(params_of(first, point).keys() == distributions(first).keys() for point in back)


def test_the_study_holds_hyperparameters_under_their_own_names(searched: Searched) -> None:
    space = searched.space(
        "{rank: [8, 16], alpha: {times_rank: [2, 4]}, use_rslora: [true, false]}"
    )
    (point,) = searched.run(space, 1, flat)
    (trial,) = searched.open(space).trials
    assert trial.params == {name: point[name] for name in ("rank", "alpha", "use_rslora")}
    assert (trial.params["rank"], trial.params["alpha"]) == (16, 32.0)


SEARCH = (
    "{learning_rate: {min: 1e-5, max: 1e-2, log: true}, rank: [8, 16, 32, 64], epochs: [1, 2, 3], "
    "alpha: {times_rank: [1, 2]}, lr_scheduler: [cosine, linear], dropout: {min: 0, max: 0.2}}"
)
FEW = "{rank: [8, 16, 32, 64], epochs: [1, 2], dropout: {min: 0, max: 0.2, step: 0.1}}"
STARTS = "start_with: [{rank: 8, epochs: 2}, {rank: 32}]"


def told(study: optuna.Study, trial: optuna.Trial, point: Point) -> None:
    """End a trial as the sweep would: some run out of memory, some fail, some are stopped."""
    loss = abs(point["dropout"] - 0.07) + point["epochs"] / 100 + point["rank"] / 1000
    trial.report(loss + 0.1, 1)
    trial.set_constraint("memory", 1.0 if trial.number % 7 == 3 else -1.0)
    if trial.number % 7 == 3 or trial.number % 5 == 4:
        study.tell(trial, state=TrialState.PRUNED)
    elif trial.number % 11 == 5:
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, loss)


def two_at_once(study: optuna.Study, ask: Callable[[], tuple[optuna.Trial, Point]]) -> list[Point]:
    points, running = [], []
    for _ in range(24):
        running.append(ask())
        points.append(running[-1][1])
        if len(running) == 2:
            told(study, *running.pop(0))
    return points


@pytest.mark.parametrize(
    ("search", "sampler"),
    [(SEARCH, "tpe"), (SEARCH, "random"), (SEARCH, "gp"), (FEW, "tpe"), (FEW, "random")],
)
def test_where_the_search_stays_the_view_draws_as_one_study_of_it_would(
    searched: Searched, search: str, sampler: str
) -> None:
    space = searched.space(search, f"sampler: {sampler}", STARTS)
    alone = optuna.create_study()
    for start in space.starts:
        alone.enqueue_trial(params_of(space, start.values))

    def ask_alone() -> tuple[optuna.Trial, Point]:
        alone.sampler = make_sampler(space, number=len(alone.trials))
        trial = alone.ask(distributions(space))
        return trial, hyperparameters(space, trial.params)

    stored = searched.open(space)
    kept = View(stored, space)

    def ask_stored() -> tuple[optuna.Trial, Point]:
        trial = kept.next_trial()
        return trial, trial.user_attrs[POINT]

    assert two_at_once(stored, ask_stored) == two_at_once(alone, ask_alone)
    view = kept.as_searched()
    for name in (
        "number",
        "state",
        "params",
        "distributions",
        "intermediate_values",
        "constraints",
    ):
        seen, known = ([getattr(t, name) for t in study.trials] for study in (view, alone))
        assert seen == known
    finished = [t.state.is_finished() for t in alone.trials]
    assert [t.values for t in view.trials] == [t.values for t in alone.trials]
    assert finished.count(False) == 1


def test_the_sampler_sees_trials_inside_of_the_search_and_no_others(searched: Searched) -> None:
    wide = searched.space("{rank: [8, 16, 32, 64]}", "sampler: random", "start_with: []")
    ranks = [point["rank"] for point in searched.run(wide, 4, lambda point: point["rank"])]
    narrow = searched.space("{rank: [16, 64, 128]}")
    seen = View(searched.open(narrow), narrow).as_searched().trials
    known = {rank: index for index, rank in enumerate([16, 64, 128])}
    assert [t.params.get("rank_index") for t in seen] == [known.get(rank) for rank in ranks]
    assert [t.value for t in seen] == [rank if rank in known else None for rank in ranks]
    assert {t.state for t in seen if not t.params} == {TrialState.FAIL}


def test_after_narrowing_tpe_learns_from_the_trials_inside(
    searched: Searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(point: Point) -> float:
        rate: float = point["learning_rate"]
        return abs(rate - 3e-3)

    wide = searched.space("{learning_rate: {min: 1e-5, max: 1e-2, log: true}}")
    rates = [point["learning_rate"] for point in searched.run(wide, 30, loss)]
    inside = [rate for rate in rates if 1e-3 <= rate <= 1e-2]
    assert len(rates) > len(inside) >= 10
    observed: list[int] = []

    class Watched(_ParzenEstimator):
        def __init__(self, observations: Any, *args: Any, **settings: Any) -> None:
            observed.append(len(observations["learning_rate"]))
            super().__init__(observations, *args, **settings)

    monkeypatch.setattr("optuna.samplers._tpe.sampler._ParzenEstimator", Watched)
    narrow = searched.space("{learning_rate: {min: 1e-3, max: 1e-2}}")
    later = [point["learning_rate"] for point in searched.run(narrow, 1, loss)]
    assert sum(observed) == len(inside)
    later += [point["learning_rate"] for point in searched.run(narrow, 9, loss)]
    assert all(1e-3 <= rate <= 1e-2 for rate in later)


def test_the_sampler_sees_running_trials(searched: Searched) -> None:
    space = searched.space(SEARCH)
    study = searched.open(space)
    view = View(study, space)
    points = [view.next_trial().user_attrs[POINT] for _ in range(3)]
    seen = view.as_searched().get_trials(states=(TrialState.RUNNING,))
    assert [hyperparameters(space, trial.params) for trial in seen] == points


def test_a_paused_trial_is_shown_as_one_that_fits_and_stays_as_it_is(searched: Searched) -> None:
    space = searched.space(SEARCH)
    study = searched.open(space)
    trial = View(study, space).next_trial()
    trial.set_user_attr(PAUSED, {"index": 1})
    for _ in range(2):
        (seen,) = View(study, space).as_searched().get_trials(states=(TrialState.PRUNED,))
        assert seen.constraints == {"memory": -1.0}
        assert study.trials[0].constraints == {}


def test_a_trial_that_was_cut_off_outside_of_the_search_goes_on_with_its_point(
    searched: Searched,
) -> None:
    before = searched.space("{rank: [8, 16], dropout: {min: 0, max: 0.1}}")
    point = View(searched.open(before), before).next_trial().user_attrs[POINT]
    after = searched.space("{rank: [32, 64], alpha: [8, 16]}")
    study = searched.open(after)
    view = View(study, after)
    again, new = view.next_trial(), view.next_trial()
    assert (again.number, again.user_attrs[POINT]) == (0, point)
    assert (new.number, new.user_attrs[POINT]["rank"] in (32, 64)) == (1, True)
    study.tell(again, 0.5)
    assert study.best_trial.number == 0


def test_a_start_that_waits_outside_of_the_search_keeps_what_was_given(searched: Searched) -> None:
    before = searched.space("{rank: [8, 24], epochs: [1, 2]}", "start_with: [{rank: 24}]")
    searched.open(before)
    after = searched.space("{rank: [8, 16], alpha: {times_rank: 2}, epochs: [3, 4]}")
    point = View(searched.open(after), after).next_trial().user_attrs[POINT]
    assert (point["rank"], point["alpha"], point["epochs"] in (3, 4)) == (24, 48, True)


def test_a_trial_whose_process_died_as_it_was_asked_is_asked_again(searched: Searched) -> None:
    space = searched.space("{rank: [8, 16], dropout: {min: 0, max: 0.1}}", "start_with: []")
    study = searched.open(space)
    half = study.ask()
    half.suggest_int("rank", 8, 16, step=1)
    number, point = (
        (t := View(searched.open(space), space).next_trial()).number,
        t.user_attrs[POINT],
    )
    assert (number, point["rank"]) == (0, half.params["rank"])
    assert searched.open(space).trials[0].params["dropout"] == point["dropout"]


def test_points_are_counted_in_the_search_as_it_is_now(searched: Searched) -> None:
    four = searched.space("{rank: [8, 16], epochs: [1, 2]}", "sampler: grid")
    searched.run(four, 4, flat)
    assert View(searched.open(four), four).n_points_tried() == four.n_points == 4
    six = searched.space("{rank: [8, 16, 32], epochs: [1, 2]}", "sampler: grid")
    assert View(searched.open(six), six).n_points_tried() == 4
    assert {point["rank"] for point in searched.run(six, 2, flat)} == {32}
    assert View(searched.open(six), six).n_points_tried() == six.n_points
    other = searched.space("{rank: [32, 64], epochs: [2, 3]}", "sampler: grid")
    assert View(searched.open(other), other).n_points_tried() == 1
    last = searched.run(other, 3, flat)
    assert {(p["rank"], p["epochs"]) for p in last} == {(32, 3), (64, 2), (64, 3)}


def test_a_start_that_is_new_is_tried_and_one_that_is_known_is_not(searched: Searched) -> None:
    searched.run(searched.space("{rank: [8, 16], alpha: {times_rank: {min: 1, max: 3}}}"), 3, flat)
    starts = "start_with: [{rank: 24, alpha: 50.4}, {rank: 16, alpha: 16}]"
    more = searched.space("{rank: [8, 16, 24], alpha: {times_rank: {min: 1, max: 3}}}", starts)
    points = searched.run(more, 1, flat)
    assert (points[0]["rank"], round(points[0]["alpha"], 9)) == (24, 50.4)
    study = searched.open(more)
    assert not study.get_trials(states=(TrialState.WAITING,))
    assert len(study.trials) == 4


def test_the_usual_start_joins_no_study(searched: Searched) -> None:
    searched.run(searched.space("{rank: [8, 64]}", "start_with: [{rank: 64}]"), 1, flat)
    study = searched.open(searched.space("{rank: [16, 32]}"))
    assert len(study.trials) == 1


def test_a_changed_search_is_said_once(searched: Searched) -> None:
    before = searched.space("{rank: [8, 16], learning_rate: {min: 1e-4, max: 1e-3}}", "seed: 3")
    searched.run(before, 4, flat)
    assert search_changes(searched.open(before), before) is None
    after = searched.space("{rank: [8, 32], learning_rate: {min: 1e-5, max: 1e-3, log: true}}")
    study = searched.open(after)
    n_outside = sum(trial.params["rank"] == 16 for trial in study.trials)
    words = search_changes(study, after)
    assert words is not None
    assert words.startswith(
        "The search has changed: rank: 8, 16 → 8, 32; "
        "learning_rate: 0.0001 … 0.001 → 1e-05 … 0.001, log. "
    )
    assert f"{n_outside} of 4 trials" in words
    assert search_changes(searched.open(after), after) is None


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ("[8, 16, 32]", "It covers the 2 trials so far."),
        ("[8, 32]", "1 of 2 trials is now outside it: it still counts, "
         "but the sampler ignores it."),
        ("[32, 64]", "2 of 2 trials are now outside it: they still count, "
         "but the sampler ignores them."),
    ],
)  # fmt: skip
def test_it_is_said_how_many_trials_lie_outside(searched: Searched, ranks: str, words: str) -> None:
    before = searched.space("{rank: [8, 16]}", "sampler: grid")
    searched.run(before, 2, flat)
    search_changes(searched.open(before), before)
    after = searched.space(f"{{rank: {ranks}}}")
    assert str(search_changes(searched.open(after), after)).endswith(f". {words}")


def test_the_eval_sample_of_a_study_stays_though_the_search_changes(
    searched: Searched, tmp_path: Path
) -> None:
    space = searched.space("{epochs: [1, 2]}")
    assert rows_so_far(space, tmp_path).sample is None
    study = searched.open(space)
    assert rows_so_far(space, tmp_path).sample is None
    study.set_user_attr("task", {"sample_rows": 96})
    study.set_user_attr("evaluate_rows", space.settings.evaluate.rows)
    assert rows_so_far(searched.space("{epochs: [0.5, 1]}"), tmp_path).sample == 96
    other = searched.space("{epochs: [1, 2]}", "evaluate: {rows: 64}")
    assert rows_so_far(other, tmp_path).sample is None


def test_the_first_trials_that_a_check_shows_are_those_that_run(searched: Searched) -> None:
    space = searched.space(SEARCH)
    shown = [point for _, point in first_trials(space)]
    assert searched.run(space, 3, flat) == json.loads(json.dumps(shown))


def test_a_trial_that_could_not_be_written_is_drawn_again(
    searched: Searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = searched.space(SEARCH, "start_with: []")
    study = searched.open(space)
    view = View(study, space)
    view.next_trial()

    def full(*_: object, **__: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as disk:
        disk.setattr(storage_of(study), "create_new_trial", full)
        with pytest.raises(OSError, match="disk full"):
            view.next_trial()
    assert len(view.as_searched().trials) == 1
    point = view.next_trial().user_attrs[POINT]
    assert [hyperparameters(space, t.params) for t in view.as_searched().trials][1] == point


def test_points_of_a_version_that_knew_fewer_hyperparameters_count(searched: Searched) -> None:
    space = searched.space("{rank: [8, 16], epochs: [1, 2]}", "sampler: grid")
    study = searched.open(space)
    search_changes(study, space)
    known = study.user_attrs[attributes.SEARCH]
    study.set_user_attr(attributes.SEARCH, {k: known[k] for k in known if k != "experts"})
    point = first_trials(space)[0][1]
    for rank in (8, 16):
        earlier = {**point, "rank": rank, "alpha": float(rank), "epochs": 1}
        del earlier["experts"]
        study.tell(new_trial(study, space, earlier), 1.0)
    assert search_changes(searched.open(space), space) is None
    assert View(searched.open(space), space).n_points_tried() == 2
    with_experts = searched.space("{rank: [8, 16], epochs: [1, 2], experts: [true, false]}")
    assert View(searched.open(with_experts), with_experts).n_points_tried() == 2
