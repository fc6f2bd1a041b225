"""What must hold of a sweep's states: readable at any time, and right when it has ended."""

from __future__ import annotations

import json
import re
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from mlflow import MlflowClient
from optuna.trial import FrozenTrial, TrialState
from safetensors.numpy import load_file

from sweep.storage.attributes import is_paused
from tests.faults.campaign import NAME, SweepUnderTest

KEEP_ADAPTERS = 3
UNSENT = "did not reach MLflow"


@dataclass(frozen=True)
class Ended:
    """How a trial ended; the same for every sweep of the space, to the last bit."""

    hyperparameters: dict[str, Any]
    outcome: str
    eval_loss_best: float | None
    curve: list[tuple[int, int, float, float, float]]
    """Index, step, eval loss, train loss and norm of the gradient of each evaluation."""

    def cut_off(self, n_evaluations: int) -> Ended:
        """The same trial, if its peers end it after so many evaluations."""
        curve = self.curve[:n_evaluations]
        best = min(eval_loss for _, _, eval_loss, _, _ in curve)
        return replace(self, outcome="outclassed", eval_loss_best=best, curve=curve)


def results(study: optuna.Study) -> dict[int, Ended]:
    """The trials that have ended, by number."""
    keys = ("index", "step", "eval_loss", "train_loss", "grad_norm")
    return {
        trial.number: Ended(
            trial.user_attrs["hyperparameters"],
            trial.user_attrs["outcome"],
            trial.user_attrs.get("eval_loss_best"),
            [tuple(point[key] for key in keys) for point in trial.user_attrs["curve"]],
        )
        for trial in study.trials
        if trial.state.is_finished()
    }


def study_of(sweep: SweepUnderTest) -> optuna.Study:
    """The study of a sweep that is not running."""
    return optuna.load_study(study_name=NAME, storage=sweep.storage())


def _has_study(sweep: SweepUnderTest) -> bool:
    if sweep.study_db is not None and not sweep.study_db.exists():
        return False
    try:
        study_of(sweep)
    except KeyError:  # the command was cut off before it had made its study
        return False
    return True


def unreadable(sweep: SweepUnderTest) -> list[str]:
    """What cannot be read of the study, of MLflow and of the adapters, the sweep running or not.

    A running sweep may replace a folder while it is read, so what is wrong is looked at twice, and
    counts where both looks find it.
    """
    if first := _look(sweep):
        time.sleep(1.0)
        again = _look(sweep)
        return [words for words in first if words in again]
    return []


def _look(sweep: SweepUnderTest) -> list[str]:
    with tempfile.TemporaryDirectory() as scratch:
        return list(_unreadable(sweep, Path(scratch)))


def _unreadable(sweep: SweepUnderTest, scratch: Path) -> Iterator[str]:
    try:
        trials = _trials(sweep, scratch)
    except Exception as error:
        yield f"the study cannot be read: {error!r}"
        return
    # best/ itself may be missing for the moment between the end of a trial and its writing.
    needed = [sweep.dir / "trials" / f"{n:03d}" / "adapter" for n in _ranked(trials)]
    there = [*sweep.dir.glob("trials/*/adapter"), *sweep.dir.glob("best/adapter")]
    for adapter in sorted({*needed, *there}):
        yield from broken_adapter(adapter)
    if (sweep.dir / "best").exists():
        yield from _broken_best(sweep.dir / "best")
    # Last: a server that does not answer takes its time, and what is kept changes meanwhile.
    try:
        _read_runs(sweep, scratch)
    except Exception as error:
        yield f"MLflow cannot be read: {error!r}"


def _copied(database: Path, scratch: Path) -> Path | None:
    """A copy that looks on without leaving a trace; None where there is no database yet."""
    if not database.exists():
        return None
    copy = scratch / database.name
    with (
        closing(sqlite3.connect(database, timeout=30)) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
        problems = target.execute("PRAGMA integrity_check").fetchone()[0]
    assert problems == "ok", f"{database}: {problems}"
    return copy


def _trials(sweep: SweepUnderTest, scratch: Path) -> list[FrozenTrial]:
    storage = sweep.storage()
    if sweep.study_db is not None:
        copy = _copied(sweep.study_db, scratch)
        if copy is None:
            return []
        storage = f"sqlite:///{copy}"
    try:
        return optuna.load_study(study_name=NAME, storage=storage).trials
    except KeyError:  # the command was cut off before it had made its study
        return []


def _ranked(trials: list[FrozenTrial]) -> list[int]:
    """Numbers of the trials whose adapters stay, the best first."""
    valued = [t for t in trials if t.state is TrialState.COMPLETE and t.value is not None]
    best = sorted(valued, key=lambda trial: (trial.value, trial.number))
    return [trial.number for trial in best[:KEEP_ADAPTERS]]


def _read_runs(sweep: SweepUnderTest, scratch: Path) -> None:
    address = sweep.mlflow
    if sweep.mlflow_db is not None:
        copy = _copied(sweep.mlflow_db, scratch)
        if copy is None:
            return
        address = f"sqlite:///{copy}"
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name(NAME)
    for run in client.search_runs([experiment.experiment_id]) if experiment else []:
        client.get_metric_history(run.info.run_id, "eval_loss")


def broken_adapter(folder: Path) -> Iterator[str]:
    """What is wrong with the files of an adapter."""
    try:
        json.loads((folder / "adapter_config.json").read_text())
        assert load_file(folder / "adapter_model.safetensors"), "it holds no tensor"
    except Exception as error:
        yield f"{folder} cannot be read: {error!r}"


def _broken_best(folder: Path) -> Iterator[str]:
    try:
        json.loads((folder / "config.json").read_text())
        assert (folder / "README.md").read_text(), "README.md is empty"
    except Exception as error:
        yield f"{folder} is not whole: {error!r}"


def lost(sweep: SweepUnderTest, reference: dict[int, Ended]) -> list[str]:
    """Trials that ended in the undisturbed sweep, and have not ended, or have failed, here."""
    there = results(study_of(sweep)) if _has_study(sweep) else {}
    return [
        f"trial {number} has not ended" if number not in there else f"trial {number} has failed"
        for number, right in reference.items()
        if number not in there or _has_failed(there[number], right)
    ]


def _has_failed(found: Ended, expected: Ended) -> bool:
    return found.outcome == "failed" and expected.outcome != "failed"


def running(sweep: SweepUnderTest) -> Iterator[str]:
    """Trials and runs that are said to run, of a sweep that does not."""
    if _has_study(sweep):
        for trial in study_of(sweep).trials:
            if trial.state is TrialState.RUNNING and not is_paused(trial):
                yield f"trial {trial.number} is RUNNING in the study"
    if sweep.mlflow_db is None or sweep.mlflow_db.exists():
        for run in _runs(sweep):
            if run.info.status == "RUNNING":
                name = run.data.tags.get("trial_number", "parent")
                yield f"the run of trial {name} is RUNNING in MLflow"


def wrong(sweep: SweepUnderTest, reference: dict[int, Ended]) -> Iterator[str]:
    """What differs, of a sweep that has ended, from what an undisturbed one leaves behind."""
    study = study_of(sweep)
    trials = study.trials
    if [trial.number for trial in trials] != sorted(reference):
        yield f"the study's numbers are {[trial.number for trial in trials]}"
    for trial in trials:
        if not trial.state.is_finished():
            yield f"trial {trial.number} is {trial.state.name} in the study"
    ended = results(study)
    for number in sorted(ended.keys() & reference.keys()):
        found, right = ended[number], reference[number]
        if sweep.workers > 1 and found.outcome == "outclassed":  # by who was there by then
            right = right.cut_off(len(found.curve))
        if not _has_failed(found, right):
            yield from _differing(number, found, right)
    yield from _wrong_in_mlflow(sweep, ended, _ranked(trials))
    yield from _wrong_on_disk(sweep, _ranked(trials))
    if UNSENT in sweep.words:
        yield next(line for line in sweep.words.splitlines() if UNSENT in line)


def _differing(number: int, found: Ended, expected: Ended) -> Iterator[str]:
    for key in ("hyperparameters", "outcome", "eval_loss_best", "curve"):
        if getattr(found, key) != getattr(expected, key):
            there, right = getattr(found, key), getattr(expected, key)
            if key == "curve":
                pairs = zip(there, right, strict=False)
                apart = next((pair for pair in pairs if pair[0] != pair[1]), None)
                there, right = apart or (f"{len(there)} points", f"{len(right)} points")
            yield f"trial {number}: {key} is {there}, not {right}"


def _runs(sweep: SweepUnderTest) -> list[Any]:
    client = MlflowClient(sweep.mlflow)
    experiment = client.get_experiment_by_name(NAME)
    if experiment is None:
        return []
    # One server may have seen other sweeps of the name: each has its own id.
    known = sweep.dir / "mlflow_sweep_id.txt"
    mine = f"tags.`sweep.id` = '{known.read_text().strip()}'"
    found = client.search_runs([experiment.experiment_id], mine)
    for parent in list(found):
        children = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        found += client.search_runs([experiment.experiment_id], children)
    return list(found)


def _wrong_in_mlflow(
    sweep: SweepUnderTest, ended: dict[int, Ended], kept: list[int]
) -> Iterator[str]:
    client = MlflowClient(sweep.mlflow)
    runs = _runs(sweep)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run not in parents]
    if [run.info.status for run in parents] != ["FINISHED"]:
        yield f"MLflow's parents are {[run.info.status for run in parents]}"
    numbers = sorted(int(run.data.tags["trial_number"]) for run in children)
    if numbers != sorted(ended):
        yield f"MLflow's children are of the trials {numbers}"
    for run in children:
        number, run_id = int(run.data.tags["trial_number"]), run.info.run_id
        if number not in ended:
            continue
        trial = ended[number]
        if run.info.status == "RUNNING":
            yield f"trial {number} is RUNNING in MLflow"
        if run.data.tags.get("outcome") != trial.outcome:
            yield f"trial {number}: MLflow's outcome is {run.data.tags.get('outcome')}"
        if run.data.metrics.get("eval_loss_best") != trial.eval_loss_best:
            yield f"trial {number}: MLflow's best is {run.data.metrics.get('eval_loss_best')}"
        history = client.get_metric_history(run_id, "eval_loss")
        logged = sorted((metric.step, metric.value) for metric in history if metric.step > 0)
        curve = [(point[1], point[2]) for point in trial.curve]
        if logged != curve:
            yield f"trial {number}: MLflow's eval losses are {logged}, not {curve}"
        artifacts = {artifact.path for artifact in client.list_artifacts(run_id)}
        expected = {"log.txt", "config.json"} | ({"adapter"} if number in kept else set())
        if artifacts != expected:
            yield f"trial {number}: MLflow's artifacts are {sorted(artifacts)}"
        if "adapter" in artifacts:
            yield from _broken_artifact(client, run_id)


def _broken_artifact(client: MlflowClient, run_id: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as scratch:
        try:
            yield from broken_adapter(Path(client.download_artifacts(run_id, "adapter", scratch)))
        except Exception as error:
            yield f"MLflow's adapter of run {run_id} cannot be fetched: {error!r}"


def _wrong_on_disk(sweep: SweepUnderTest, kept: list[int]) -> Iterator[str]:
    there = sorted(int(path.parent.name) for path in sweep.dir.glob("trials/*/adapter"))
    if there != sorted(kept):
        yield f"adapters of the trials {there} are on disk, not of {sorted(kept)}"
    try:
        winner = json.loads((sweep.dir / "best" / "config.json").read_text())["number"]
        if winner != kept[0]:
            yield f"best/ is of trial {winner}, not of {kept[0]}"
    except (OSError, ValueError) as error:
        yield f"best/ is not whole: {error!r}"
    for pattern in ("*.tmp", "checkpoint*"):
        for path in sweep.dir.rglob(pattern):
            yield f"left behind: {path.relative_to(sweep.dir)}"


def tracebacks(sweep: SweepUnderTest) -> list[str]:
    """The errors whose tracebacks the command has shown its user, each once."""
    words = sweep.words
    if "Traceback (most recent call last)" not in words:
        return []
    errors = re.findall(r"^\w[\w.]*(?:Error|Exception|Interrupt)\b.*$", words, re.MULTILINE)
    return [f"it shows a traceback: {error[:200]}" for error in dict.fromkeys(errors)]
