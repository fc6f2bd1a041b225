"""`start_from`: real sweeps on disk and in a real MLflow, whose best points begin another."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from sweep.cluster.package import pack_space
from sweep.driver.start_from import with_earlier
from sweep.errors import SpaceError, TrackingError
from sweep.events import Place
from sweep.samplers.search_space import is_within
from sweep.space.loading import load_space
from sweep.space.space import Space
from sweep.space.usual_points import within
from sweep.storage.attributes import POINT
from sweep.storage.patient import storage_url
from sweep.study.next_trial import View, enqueue_starts, first_trials
from sweep.study.opening import open_study
from sweep.tracking.mlflow_tracker import MlflowTracker
from tests.sweep.reviewed import make_config, point, result, write_sweep
from trials.config import Objective, TrialConfig

# SQLAlchemy 2.1 warns of a loader that MLflow 3.17 uses in its own tables, once, when imported.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)

MakeSpace = Callable[..., Space]
SEARCH = "{rank: [8, 16, 32], alpha: {times_rank: [1, 2]}, learning_rate: {min: 1e-5, max: 1e-3}}"
POINTS = ((8, 8.0, 1e-4), (16, 32.0, 2e-4), (32, 32.0, 3e-4), (8, 16.0, 4e-4), (32, 64.0, 5e-4))
LOSSES = (1.5, 1.2, 1.3, 1.1, 1.4)
OUTCOMES = ("completed", "overfit", "completed", "outclassed", "completed")
"""Of the five trials of `earlier`: 1, 2 and 4 are the best whose values count."""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Folder of all sweeps."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def space(tmp_path: Path) -> MakeSpace:
    """Makes a space of a search, with more lines."""
    (tmp_path / "rows.jsonl").write_text("{}")

    def make(*more: str, search: str = SEARCH) -> Space:
        path = tmp_path / "new.yaml"
        lines = ["base_model: none", "data: {train: rows.jsonl, eval: 0.1}", f"search: {search}"]
        path.write_text("\n".join([*lines, *more]))
        return load_space(path)

    return make


def configs() -> list[TrialConfig]:
    usual: dict[str, Any] = {"lr_scheduler": "cosine", "gpus_per_trial": 1}
    return [
        replace(make_config(number), rank=rank, alpha=alpha, learning_rate=rate, **usual)
        for number, (rank, alpha, rate) in enumerate(POINTS)
    ]


def in_folder(folder: Path) -> Path:
    """Write a sweep of five trials, as `sweep run` leaves it."""
    trials = [
        (config, result(outcome, curve), curve)
        for config, loss, outcome in zip(configs(), LOSSES, OUTCOMES, strict=True)
        if (curve := [point(1, loss + 0.1), point(2, loss)])
    ]
    return write_sweep(folder, trials)


def in_mlflow(uri: str, folder: Path, name: str = "earlier", *, best: float = 0.0) -> None:
    """Track a sweep of five trials, as `sweep run` does; all losses are higher by `best`."""
    folder.mkdir()
    tracker = MlflowTracker(uri=uri, name=name, artifacts_dir=folder / "art", output_dir=folder)
    tracker.open_sweep({}, {}, folder / "space.yaml")
    for config, loss, outcome in zip(configs(), LOSSES, OUTCOMES, strict=True):
        tracker.trial_started(config, Place(node="box", device="GPU 0"))
        curve = [point(1, loss + best + 0.1), point(2, loss + best)]
        for each in curve:
            tracker.trial_reported(config.number, each)
        tracker.trial_ended(config.number, result(outcome, curve))
    tracker.close_sweep("FINISHED", None, "Done.")
    assert tracker.unsent == 0


def taken(space: Space) -> list[tuple[object, ...]]:
    """Rank, alpha and learning rate of the points of earlier sweeps."""
    names = ("rank", "alpha", "learning_rate")
    return [tuple(s.values.get(name) for name in names) for s in space.starts if s.sweep]


BEST = [POINTS[1], POINTS[2], POINTS[4]]


def test_the_best_three_that_count_come_first_then_the_usual_ones(
    space: MakeSpace, out: Path
) -> None:
    in_folder(out / "earlier")
    new = with_earlier(space("start_from: earlier"), out, None)
    assert taken(new) == BEST
    assert [start.origin for start in new.starts] == [
        "from earlier: trial 001 (eval loss 1.2000), moved into this space",
        "from earlier: trial 002 (eval loss 1.3000), moved into this space",
        "from earlier: trial 004 (eval loss 1.4000), moved into this space",
        "known-good",
        "published rate 0.0003",
        "published rate 0.001",
    ]
    shown = first_trials(new)
    assert [origin for origin, _ in shown] == [start.origin for start in new.starts]
    assert [p["learning_rate"] for _, p in shown] == [2e-4, 3e-4, 5e-4, 2e-4, 3e-4, 1e-3]


def test_the_trials_of_a_study_begin_with_them(space: MakeSpace, out: Path) -> None:
    in_folder(out / "earlier")
    new = with_earlier(space("start_from: [earlier]", "start_with: []"), out, None)
    study = open_study(new, storage_url(out))
    enqueue_starts(study, new)
    view = View(study, new)
    points = [view.next_trial().user_attrs[POINT] for _ in range(4)]
    assert [(p["rank"], p["alpha"], p["learning_rate"]) for p in points[:3]] == BEST
    assert all(is_within(new, p) for p in points)


def test_points_of_the_file_come_after_them(space: MakeSpace, out: Path) -> None:
    in_folder(out / "earlier")
    new = with_earlier(space("start_from: earlier", "start_with: [{rank: 8}]"), out, None)
    assert [start.origin.split(":")[0] for start in new.starts] == [
        *["from earlier"] * 3,
        "start_with",
    ]


def test_a_usual_point_that_an_earlier_sweep_gives_comes_once(space: MakeSpace, out: Path) -> None:
    usual = replace(configs()[0], rank=16, alpha=16.0, learning_rate=2e-4, epochs=1)
    curve = [point(1, 1.0)]
    write_sweep(out / "earlier", [(usual, result("completed", curve), curve)])
    new = with_earlier(space("start_from: earlier"), out, None)
    study = open_study(new, storage_url(out))
    given = [trial.system_attrs["fixed_params"] for trial in _queued(new, study)]
    assert [point["learning_rate"] for point in given] == [2e-4, 3e-4, 1e-3]


def _queued(space: Space, study: Any) -> list[Any]:
    enqueue_starts(study, space)
    return list(study.get_trials(states=(TrialState.WAITING,)))


@pytest.mark.parametrize(
    ("search", "points"),
    [
        ("{rank: [4, 16], learning_rate: {min: 1e-5, max: 25e-5}}",
         [(16, None, 2e-4), (16, None, 25e-5), (16, None, 25e-5)]),
        ("{rank: 8, alpha: {times_rank: [0.5, 2]}}",
         [(8, 16.0, None), (8, 4.0, None), (8, 16.0, None)]),
        ("{alpha: [20, 32]}", [(16, 32, None), (16, 32, None), (16, 32, None)]),
        ("{learning_rate: {min: 1e-4, max: 5e-4, step: 1e-4}, lr_scheduler: [linear, constant]}",
         [(16, None, 2e-4), (16, None, 3e-4), (16, None, 5e-4)]),
    ],
)  # fmt: skip
def test_values_are_moved_into_the_space_and_only_what_it_searches_is_given(
    space: MakeSpace, out: Path, search: str, points: list[tuple[object, ...]]
) -> None:
    in_folder(out / "earlier")
    new = with_earlier(space("start_from: earlier", search=search), out, None)
    found = [tuple(pytest.approx(v) if isinstance(v, float) else v for v in p) for p in points]
    assert taken(new) == found
    assert all("lr_scheduler" not in start.values for start in new.starts if start.sweep)
    assert all(is_within(new, point) for _, point in first_trials(new))


def test_a_point_without_a_rank_gives_no_multiple_of_it(space: MakeSpace) -> None:
    assert within(space().domains, {"alpha": 16.0}) == {}
    assert within(space().domains, {"rank": 30, "dropout": 0.1}) == {"rank": 32}


def test_several_sweeps_are_taken_in_their_order(space: MakeSpace, out: Path) -> None:
    in_folder(out / "one")
    in_folder(out / "two")
    new = with_earlier(space("start_from: [two, one, two]"), out, None)
    assert [start.sweep for start in new.starts if start.sweep] == [*["two"] * 3, *["one"] * 3]
    study = open_study(new, storage_url(out))
    assert len(_queued(new, study)) == 3 + 3  # their points are the same, then the usual ones


def test_what_a_study_has_taken_it_takes_once_though_the_sweep_is_gone(
    space: MakeSpace, out: Path
) -> None:
    in_folder(out / "earlier")
    in_folder(out / "other")
    folder = out / "new"
    folder.mkdir()
    (folder / "sweep.json").write_text('{"schema": 1}')
    new = with_earlier(space("start_from: earlier", "start_with: []"), out, None)
    study = open_study(new, storage_url(folder))
    enqueue_starts(study, new)
    shutil.rmtree(out / "earlier")
    assert taken(with_earlier(space("start_from: earlier"), out, None)) == []
    more = with_earlier(space("start_from: [earlier, other]", "start_with: []"), out, None)
    assert [start.sweep for start in more.starts] == ["other"] * 3
    assert enqueue_starts(study, more) == []  # the same points


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow with a sweep `earlier`, an older one of that name, and an experiment of others."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    in_mlflow(uri, folder / "older", best=-1.0)
    in_mlflow(uri, folder / "earlier")
    confirmed = folder / "confirm"
    confirmed.mkdir()
    tracker = MlflowTracker(
        uri=uri, name="earlier", artifacts_dir=None, output_dir=confirmed, run_name="confirmed"
    )
    tracker.open_sweep({}, {"sweep.confirms": "earlier"}, confirmed / "space.yaml")
    tracker.close_sweep("FINISHED", None, "Done.")
    return uri


def test_a_sweep_that_is_not_in_the_folder_is_looked_for_in_mlflow(
    space: MakeSpace, out: Path, database: str
) -> None:
    new = with_earlier(space("start_from: earlier"), out, database)
    assert taken(new) == BEST
    assert new.starts[0].origin.startswith("from earlier: trial 001 (eval loss 1.2000)")


def test_of_a_sweep_in_mlflow_every_hyperparameter_is_as_it_was(
    space: MakeSpace, out: Path, database: str
) -> None:
    search = (
        "{use_rslora: [true, false], target_modules: [qv, mlp], epochs: {min: 1, max: 2}, "
        "effective_batch_size: [8, 24], max_length: [256, 512], alpha: [16, 32]}"
    )
    start = with_earlier(space("start_from: earlier", search=search), out, database).starts[0]
    assert start.values == {
        "rank": 16,
        "alpha": 32,
        "epochs": 1.5,
        "effective_batch_size": 24,
        "target_modules": "qv",
        "use_rslora": True,
        "max_length": 512,
    }


def test_a_score_is_ranked_by_its_direction(space: MakeSpace, out: Path, tmp_path: Path) -> None:
    uri, folder = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "scored"
    folder.mkdir()
    tracker = MlflowTracker(uri=uri, name="scored", artifacts_dir=None, output_dir=folder)
    params = {"objective": "own.py:facts", "objective.direction": "maximize"}
    tracker.open_sweep(params, {}, folder / "space.yaml")
    objective = Objective(name="facts", direction="maximize", python="own.py:facts")
    for config, score in zip(configs(), (0.1, 0.4, 0.3, 0.2, 0.5), strict=True):
        tracker.trial_started(
            replace(config, objective=objective), Place(node="box", device="GPU 0")
        )
        scored = [replace(point(1, 1.0), score=score), replace(point(2, 0.9), score=score / 2)]
        for each in scored:
            tracker.trial_reported(config.number, each)
        tracker.trial_ended(config.number, result("completed", scored))
    tracker.close_sweep("FINISHED", None, "Done.")
    new = with_earlier(space("start_from: scored"), out, uri)
    assert [start.origin.split(", moved")[0] for start in new.starts[:3]] == [
        "from scored: trial 004 (facts 0.5000)",
        "from scored: trial 001 (facts 0.4000)",
        "from scored: trial 002 (facts 0.3000)",
    ]


def test_what_is_wrong_is_said_at_once_and_in_words(
    space: MakeSpace, out: Path, database: str
) -> None:
    in_folder(out / "quickstart")
    curve = [point(1, 1.0)]
    write_sweep(out / "lost", [(configs()[0], result("diverged", curve), curve)])
    (out / "begun").mkdir()
    (out / "begun" / "sweep.json").write_text("{}")
    names = "[quickstat, lost, begun, earlyer]"
    with pytest.raises(SpaceError) as error:
        with_earlier(space(f"start_from: {names}"), out, database)
    lines = str(error.value).splitlines()
    assert lines == [
        f"start_from: no sweep quickstat in {out}, nor at {database}; did you mean quickstart?",
        "start_from: lost must have a trial with an eval loss that counts, but has none yet. "
        "Resume it, or name another sweep.",
        f"start_from: {out / 'begun'}: has no study.db, so no sweep has begun there.",
        f"start_from: no sweep earlyer in {out}, nor at {database}; did you mean earlier?",
    ]


def test_without_mlflow_it_is_said_where_else_to_look(space: MakeSpace, out: Path) -> None:
    words = f"start_from: no sweep earlier in {out}; --mlflow adds a server to look in."
    with pytest.raises(SpaceError) as error:
        with_earlier(space("start_from: earlier"), out, None)
    assert str(error.value) == words


def test_nothing_that_is_searched_is_no_start(space: MakeSpace, out: Path) -> None:
    in_folder(out / "earlier")
    search = "{lr_scheduler: [linear, constant]}"
    with pytest.raises(SpaceError, match="earlier must share a searched value with this space"):
        with_earlier(space("start_from: earlier", search=search), out, None)


def test_mlflow_that_is_away_is_said_without_its_password(space: MakeSpace, out: Path) -> None:
    with pytest.raises(TrackingError, match="start_from: MLflow at .*cannot be used") as error:
        with_earlier(space("start_from: earlier"), out, "http://me:secret@127.0.0.1:9")
    assert "secret" not in str(error.value)


def test_a_database_that_is_not_there_is_not_made(space: MakeSpace, out: Path) -> None:
    database = out / "none.db"
    with pytest.raises(SpaceError, match="no sweep earlier"):
        with_earlier(space("start_from: earlier"), out, f"sqlite:///{database}")
    assert not database.exists()


def test_a_job_takes_the_names_along_and_looks_where_it_runs(
    space: MakeSpace, out: Path, tmp_path: Path
) -> None:
    (tmp_path / "job").mkdir()
    here = space("start_from: earlier")
    pack_space(tmp_path / "new.yaml", here, {}, tmp_path / "job")
    in_folder(out / "earlier")
    there = load_space(tmp_path / "job" / "space.yaml")
    assert taken(with_earlier(there, out, None)) == BEST


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("start_from: new", "line 4   start_from: must be an earlier sweep, not 'new' itself"),
        ("start_from: [a, new]", r"start_from\[1\]: must be an earlier sweep, not 'new' itself"),
        (
            "start_from: ../x",
            "start_from: must be the name of an earlier sweep, or a list of names",
        ),
        ("start_from: [a, b/c]", r"start_from\[1\]: must be a valid folder name .*write b-c"),
        ("start_from: 7", "start_from: must be the name of an earlier sweep, or a list of names"),
        ("warm_start: a", "warm_start: is `start_from` here"),
    ],
)
def test_a_file_that_names_no_earlier_sweep_is_refused(
    space: MakeSpace, line: str, words: str
) -> None:
    with pytest.raises(SpaceError, match=words):
        space(line)
