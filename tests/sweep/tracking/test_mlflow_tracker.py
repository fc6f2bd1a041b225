from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode

from sweep.errors import TrackingError
from sweep.events import UNKNOWN, Place, Tracker
from sweep.tracking import writer
from sweep.tracking.client import is_refused
from sweep.tracking.earlier import best_in_mlflow
from sweep.tracking.journal import Event, Journal
from sweep.tracking.location import tracked_at, ui_command
from sweep.tracking.mlflow_tracker import MlflowTracker, send_rest
from sweep.tracking.run_index import RunIndex
from sweep.tracking.runs import Runs
from trials.config import EvalPoint, ModelConfig, Outcome, TrialConfig, TrialResult

# SQLAlchemy 2.1 warns of a loader that MLflow 3.17 uses in its own tables, once, when imported.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)

PLACE = Place(node="box", device="GPU 0")
COMPLETED = TrialResult(outcome="completed", reason="All 2 evaluations were made.")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to create its tables: once for all tests."""
    folder = tmp_path_factory.mktemp("mlflow")
    path = folder / "mlflow.db"
    MlflowTracker(uri=f"sqlite:///{path}", name="n", artifacts_dir=None, output_dir=folder)
    return path


@pytest.fixture
def folder(tmp_path: Path, empty_database: Path) -> Path:
    """A sweep's folder with a database without runs."""
    return new_folder(tmp_path / "quick", empty_database)


def new_folder(folder: Path, empty_database: Path) -> Path:
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    (folder / "space.yaml").write_text("name: quick\n")
    return folder


def opened(folder: Path, uri: str | None = None, **params: object) -> MlflowTracker:
    tracker = MlflowTracker(
        uri=uri or f"sqlite:///{folder}/mlflow.db",
        name="quick",
        artifacts_dir=None if uri else folder / "mlartifacts",
        output_dir=folder,
    )
    tracker.open_sweep(params, {"dataset": "f00d"}, folder / "space.yaml")
    return tracker


def close(tracker: MlflowTracker) -> None:
    tracker.close_sweep("FINISHED", None, "Done.")
    assert (tracker.unsent, tracker.first_error) == (0, None)


def config(folder: Path, number: int = 0) -> TrialConfig:
    model = ModelConfig(
        name="tiny",
        revision=None,
        quantization="nf4",
        compute_dtype="auto",
        backend="transformers",
        max_length=64,
        trust_remote_code=False,
    )
    return TrialConfig(
        number=number,
        model=model,
        data_dir="/data",
        output_dir=str(folder / "trials" / f"{number:03d}"),
        rank=16,
        alpha=32.0,
        learning_rate=3.1e-4,
        epochs=2.0,
        effective_batch_size=16,
        eval_batch_size=8,
        gpus_per_trial=1,
        micro_batch_size=8,
        max_length=512,
        dropout=0.0,
        warmup_ratio=0.03,
        weight_decay=0.0,
        lr_scheduler="cosine",
        optimizer="adamw",
        max_grad_norm=1.0,
        target_modules="all-linear",
        use_rslora=False,
        use_dora=False,
        neftune_alpha=0.0,
        n_evaluations=2,
        evaluate_base=True,
        checkpoint_minutes=10.0,
        stall_minutes=10.0,
        seed=1,
    )


def point(
    index: int, eval_loss: float, train_loss: float | None = 1.0, gpu_busy: float | None = None
) -> EvalPoint:
    return EvalPoint(
        index=index,
        step=10 * index,
        epoch=float(index),
        eval_loss=eval_loss,
        train_loss=train_loss,
        learning_rate=1e-4,
        grad_norm=0.5,
        tokens_per_second=100.0,
        gpu_memory_gib=None,
        gpu_busy=gpu_busy,
        seconds=1.0,
    )


def run_trial(
    tracker: Tracker, config: TrialConfig, losses: list[float], result: TrialResult = COMPLETED
) -> None:
    tracker.trial_started(config, PLACE)
    for index, loss in enumerate(losses, start=1):
        tracker.trial_reported(config.number, point(index, loss))
    tracker.trial_ended(config.number, result)


def client(folder: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")


def index(folder: Path) -> RunIndex:
    """What another process knows of the sweep's runs: nothing yet."""
    return RunIndex(f"sqlite:///{folder}/mlflow.db", "quick", folder, None)


def parent(folder: Path) -> Any:
    return index(folder).parent()


def children(folder: Path) -> list[Any]:
    known = index(folder)
    chosen = f"tags.`mlflow.parentRunId` = '{known.parent_run_id}'"
    return list(client(folder).search_runs([known.experiment_id], chosen))


def history(folder: Path, run: Any, metric: str) -> list[tuple[int, float]]:
    values = client(folder).get_metric_history(run.info.run_id, metric)
    return [(value.step, value.value) for value in values]


def test_a_trial_is_a_child_run_of_the_sweep(folder: Path) -> None:
    tracker = opened(folder)
    run_trial(tracker, config(folder), [1.5, 1.25])
    close(tracker)
    (child,) = children(folder)
    assert child.info.run_name == "000 r16 α32 lr3.1e-4 e2 b16"
    assert child.info.status == "FINISHED"
    assert child.data.tags["gpu"] == "GPU 0"
    assert child.data.tags["node"] == "box"
    assert child.data.tags["outcome"] == "completed"
    assert child.data.tags["outcome_reason"] == "All 2 evaluations were made."


def test_the_metrics_of_an_evaluation_stand_at_its_optimizer_step(folder: Path) -> None:
    tracker = opened(folder)
    run_trial(tracker, config(folder), [1.5, 1.75])
    close(tracker)
    (child,) = children(folder)
    assert history(folder, child, "eval_loss") == [(10, 1.5), (20, 1.75)]
    assert history(folder, child, "eval_loss_best") == [(10, 1.5), (20, 1.5)]
    assert history(folder, child, "generalisation_gap") == [(10, 0.5), (20, 0.75)]
    assert history(folder, child, "epoch") == [(10, 1.0), (20, 2.0)]


def test_a_measurement_that_is_missing_stays_missing(folder: Path) -> None:
    tracker = opened(folder)
    run_trial(tracker, config(folder), [1.5])
    close(tracker)
    assert not {"gpu_memory_gib", "gpu_busy"} & children(folder)[0].data.metrics.keys()


def test_how_busy_the_gpu_was_stands_beside_the_losses(folder: Path) -> None:
    tracker, asked = opened(folder), config(folder)
    tracker.trial_started(asked, PLACE)
    for n, share in enumerate((0.5, 0.0), start=1):  # an idle GPU is a number too
        tracker.trial_reported(asked.number, point(n, 1.5, gpu_busy=share))
    close(tracker)
    (child,) = children(folder)
    assert history(folder, child, "gpu_busy") == [(10, 0.5), (20, 0.0)]


def test_every_setting_is_a_parameter(folder: Path) -> None:
    tracker = opened(folder)
    run_trial(tracker, config(folder), [1.5])
    close(tracker)
    params = children(folder)[0].data.params
    wanted = {"base_model": "tiny", "backend": "transformers", "rank": "16", "alpha": "32"}
    wanted |= {"learning_rate": "0.00031", "epochs": "2", "effective_batch_size": "16"}
    wanted |= {"optimizer": "adamw", "seed": "1"}
    assert wanted.items() <= params.items()
    assert not {"data_dir", "output_dir", "number", "model", "revision"} & params.keys()


def test_the_micro_batch_logged_is_the_one_that_fitted(folder: Path) -> None:
    tracker = opened(folder)
    run_trial(tracker, config(folder), [1.5], replace(COMPLETED, micro_batch_size=4))
    close(tracker)
    params = children(folder)[0].data.params
    assert params["micro_batch_size"] == "4"
    assert "most_rows" not in params


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        ("overfit", "FINISHED"),
        ("outclassed", "FINISHED"),
        ("stopped", "FINISHED"),
        ("diverged", "FINISHED"),
        ("out_of_memory", "FAILED"),
        ("paused", "KILLED"),
        ("interrupted", "KILLED"),
    ],
)
def test_the_outcome_decides_the_status(folder: Path, outcome: Outcome, status: str) -> None:
    tracker = opened(folder)
    run_trial(tracker, config(folder), [1.5], TrialResult(outcome=outcome, reason="Why."))
    close(tracker)
    (child,) = children(folder)
    assert (child.info.status, child.data.tags["outcome"]) == (status, outcome)


@pytest.mark.parametrize("outcome", ["outclassed", "diverged", "stopped"])
def test_only_a_trial_that_counts_has_its_adapter_in_mlflow(folder: Path, outcome: Outcome) -> None:
    tracker = opened(folder)
    write_files(folder, 0)
    run_trial(tracker, config(folder), [1.5], TrialResult(outcome=outcome, reason="Why."))
    close(tracker)
    assert artifacts(folder, children(folder)[0]) == {"log.txt"}


def duration(run: Any) -> float:
    """Seconds, as MLflow's column shows them."""
    return float(run.info.end_time - run.info.start_time) / 1000


def test_a_run_lasts_as_long_as_its_trial_ran_without_its_pauses(folder: Path) -> None:
    tracker, paused = opened(folder), TrialResult(outcome="paused", reason="At 15 %.")
    run_trial(tracker, config(folder), [1.5], replace(paused, training_seconds=40.0))
    wait_for(lambda: children(folder)[0].info.status == "KILLED", tracker)
    assert duration(children(folder)[0]) == 40.0
    tracker.trial_started(config(folder), PLACE)
    ended = replace(COMPLETED, training_seconds=100.0, evaluation_seconds=23.0)
    tracker.trial_ended(0, ended)  # the seconds of both parts
    close(tracker)
    assert duration(children(folder)[0]) == 123.0


def test_the_run_of_a_killed_trial_ends_at_its_last_evaluation(folder: Path) -> None:
    tracker = opened(folder)
    tracker.trial_started(config(folder), PLACE)
    tracker.trial_reported(0, point(1, 1.5))
    wait_for(lambda: True, tracker)
    time.sleep(0.05)
    said: list[str] = []
    assert send_rest(folder, None, said.append) == 0
    (child,) = children(folder)
    (heard,) = client(folder).get_metric_history(child.info.run_id, "eval_loss")
    assert child.info.end_time == heard.timestamp


def test_the_description_of_a_trial_says_how_it_ended(folder: Path) -> None:
    tracker = opened(folder)
    reason = "5 evaluations <without> a new best."
    overfit = TrialResult(outcome="overfit", reason=reason, best=point(4, 1.25))
    run_trial(tracker, config(folder), [1.5], replace(overfit, training_seconds=185.0))
    close(tracker)
    assert children(folder)[0].data.tags["mlflow.note.content"] == (
        "**Overfit.** 5 evaluations &lt;without&gt; a new best.\n\n"
        "Best eval loss: 1.2500, at step 40, epoch 4.00.\n\n"
        "Trained and evaluated for 3:05."
    )


def test_the_end_of_a_failed_trials_log_stands_in_its_description(folder: Path) -> None:
    tracker = opened(folder)
    failed = TrialResult(outcome="failed", reason="RuntimeError: no.\nIn *line* 3\nand 4")
    run_trial(tracker, config(folder), [], failed)
    close(tracker)
    note = children(folder)[0].data.tags["mlflow.note.content"]
    assert note == "**Failed.** RuntimeError: no.\n\n    In *line* 3\n    and 4"


def test_where_a_trial_ran_stays_known_when_a_crash_has_it_told_again(folder: Path) -> None:
    first = opened(folder)
    run_trial(first, config(folder), [1.5], TrialResult(outcome="paused", reason="At 15 %."))
    close(first)
    second = opened(folder)
    second.trial_started(config(folder), Place(UNKNOWN, UNKNOWN))
    second.trial_ended(0, COMPLETED)
    close(second)
    tags = children(folder)[0].data.tags
    assert (tags["gpu"], tags["node"]) == ("GPU 0", "box")


def test_decimals_are_short_and_what_repeats_a_trial_is_exact(folder: Path) -> None:
    tracker, rate = opened(folder), 3.0000000000000004e-4
    asked = replace(config(folder), learning_rate=rate, dropout=0.1 + 0.2)
    tracker.trial_started(asked, PLACE)
    odd = replace(point(1, 1.5), epoch=0.1 + 0.2, learning_rate=rate, tokens_per_second=1 / 3)
    tracker.trial_reported(0, odd)
    tracker.trial_ended(0, COMPLETED)
    tracker.close_sweep("FINISHED", {"trial": 0, "eval_loss": 1.98765432101}, "Done.")
    (child,) = children(folder)
    assert (child.data.params["learning_rate"], child.data.params["dropout"]) == ("0.0003", "0.3")
    assert history(folder, child, "epoch") == [(10, 0.3)]
    assert history(folder, child, "tokens_per_second") == [(10, 0.333333)]
    assert parent(folder).data.tags["winner_eval_loss"] == "1.98765"
    assert json.loads(child.data.tags["sweep.hyperparameters"])["learning_rate"] == rate
    earlier = best_in_mlflow(f"sqlite:///{folder}/mlflow.db", "quick", 1)
    assert earlier is not None
    assert earlier.best[0].hyperparameters["learning_rate"] == rate


def test_the_loss_before_the_first_step_is_the_base_models(folder: Path) -> None:
    tracker = opened(folder)
    tracker.trial_started(config(folder), PLACE)
    tracker.trial_reported(0, point(0, 2.5, train_loss=None))
    tracker.trial_ended(0, COMPLETED)
    close(tracker)
    (child,) = children(folder)
    assert parent(folder).data.metrics["base_eval_loss"] == 2.5
    assert history(folder, child, "eval_loss") == [(0, 2.5)]
    assert "eval_loss_best" not in child.data.metrics


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_shown_and_named(folder: Path, loss: float) -> None:
    tracker = opened(folder)
    run_trial(tracker, config(folder), [1.5, loss], TrialResult(outcome="diverged", reason="Why."))
    close(tracker)
    (child,) = children(folder)
    assert child.data.tags["not_finite"] == f"step 20: eval_loss {loss}, train_loss 1"
    last = history(folder, child, "eval_loss")[-1][1]
    assert math.isnan(last) or last == sys.float_info.max  # MLflow's infinity
    assert history(folder, child, "eval_loss_best")[-1] == (20, 1.5)


def test_an_interrupted_trial_goes_on_in_its_own_run(folder: Path) -> None:
    first = opened(folder)
    run_trial(first, config(folder), [1.5], TrialResult(outcome="interrupted", reason="Ctrl-C."))
    close(first)
    second = opened(folder)
    run_trial(second, config(folder), [1.5, 1.25])
    close(second)
    (child,) = children(folder)
    assert child.data.tags["outcome"] == "completed"
    assert history(folder, child, "eval_loss") == [(10, 1.5), (20, 1.25)]
    assert history(folder, child, "eval_loss_best") == [(10, 1.5), (20, 1.25)]


def test_the_train_loss_of_each_step_comes_with_the_evaluation_after_it_and_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    log_batch = MlflowClient.log_batch

    def counted(self: MlflowClient, run_id: str, metrics: Any = (), *rest: Any, **more: Any) -> Any:
        sizes.append(sum(metric.key == "train_loss" for metric in metrics))
        return log_batch(self, run_id, metrics, *rest, **more)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    losses = tuple(2.0 - step / 16 for step in range(20))
    points = [
        replace(point(n, 1.5), step_losses=losses[10 * n - 10 : 10 * n], train_loss=9.0)
        for n in (1, 2)
    ]
    for cut_off_before in (True, False):
        tracker = opened(folder)
        tracker.trial_started(config(folder), PLACE)
        for each in points[:1] if cut_off_before else points:  # the first was lost, and comes again
            tracker.trial_reported(0, each)
        interrupted = TrialResult(outcome="interrupted", reason="Ctrl-C.")
        tracker.trial_ended(0, interrupted if cut_off_before else COMPLETED)
        close(tracker)
    (child,) = children(folder)
    assert history(folder, child, "train_loss") == list(enumerate(losses, start=1))
    assert sorted(filter(None, sizes)) == [10, 10]


def test_a_trial_that_goes_on_has_no_outcome_yet(folder: Path) -> None:
    tracker = opened(folder)
    run_trial(tracker, config(folder), [1.5], TrialResult(outcome="interrupted", reason="Ctrl-C."))
    tracker.trial_started(config(folder), PLACE)
    wait_for(lambda: children(folder)[0].info.status == "RUNNING", tracker)
    tags = children(folder)[0].data.tags
    assert not {"outcome", "outcome_reason"} & tags.keys()
    close(tracker)


def wait_for(condition: Any, tracker: MlflowTracker) -> None:
    deadline = time.monotonic() + 10
    while tracker.unsent or not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_resumed_sweep_goes_on_in_the_same_parent_run(folder: Path) -> None:
    close(opened(folder, trials=24))
    before = parent(folder).info.run_id
    second = opened(folder, trials=48, hours=8)
    assert (parent(folder).info.run_id, parent(folder).info.status) == (before, "RUNNING")
    close(second)
    assert parent(folder).data.params == {"trials": "24", "hours": "8"}


def test_two_sweeps_of_one_name_keep_apart(folder: Path) -> None:
    close(opened(folder))
    mine = parent(folder).info
    (folder / "mlflow_sweep_id.txt").unlink()  # as from another folder, on one server
    close(opened(folder))
    theirs = parent(folder).info
    assert mine.experiment_id == theirs.experiment_id
    assert mine.run_id != theirs.run_id


def test_the_parent_run_tells_how_the_sweep_ended(folder: Path) -> None:
    tracker = opened(folder)
    run_trial(tracker, config(folder, number=3), [1.5])
    winner = {"trial": 3, "eval_loss": 1.5, "base_eval_loss": 2.4, "rank": 16}
    tracker.close_sweep("FINISHED", winner, "# Rank 16 won")
    run = parent(folder)
    (child,) = children(folder)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "quick"
    assert run.data.metrics["best_eval_loss"] == 1.5
    assert run.data.metrics["base_eval_loss"] == 2.4  # of the winner's rows
    assert run.data.tags["mlflow.note.content"] == "# Rank 16 won"
    assert (run.data.tags["winner_trial"], run.data.tags["winner_rank"]) == ("3", "16")
    assert run.data.tags["winner_run_id"] == child.info.run_id
    assert run.data.tags["dataset"] == "f00d"


def test_the_report_is_an_artifact_of_the_parent_run(folder: Path) -> None:
    tracker = opened(folder)
    (folder / "report.html").write_text("<p>what was found</p>")
    tracker.close_sweep("KILLED", None, "Stopped.", folder / "report.html")
    (kept,) = (folder / "mlartifacts").glob(f"{parent(folder).info.run_id}/artifacts/report.html")
    assert kept.read_text() == "<p>what was found</p>"


def test_no_trial_is_left_running(folder: Path) -> None:
    tracker = opened(folder)
    tracker.trial_started(config(folder), PLACE)
    close(tracker)
    (child,) = children(folder)
    assert (child.info.status, child.data.tags["outcome"]) == ("KILLED", "interrupted")


def write_files(folder: Path, number: int) -> None:
    trial = folder / "trials" / f"{number:03d}"
    (trial / "adapter").mkdir(parents=True)
    (trial / "adapter" / "adapter_config.json").write_text("{}")
    (trial / "log.txt").write_text("step 1\n")


def artifacts(folder: Path, run: Any, path: str | None = None) -> set[str]:
    return {file.path for file in client(folder).list_artifacts(run.info.run_id, path)}


def test_a_completed_trial_keeps_its_log_and_adapter(folder: Path) -> None:
    tracker = opened(folder)
    write_files(folder, 0)
    run_trial(tracker, config(folder), [1.5])
    close(tracker)
    (child,) = children(folder)
    assert artifacts(folder, child) == {"adapter", "log.txt"}
    assert artifacts(folder, child, "adapter") == {"adapter/adapter_config.json"}
    assert (folder / "mlartifacts" / child.info.run_id / "artifacts" / "log.txt").exists()
    assert artifacts(folder, parent(folder)) == {"space.yaml"}


def test_an_outclassed_trial_keeps_its_log_only(folder: Path) -> None:
    tracker = opened(folder)
    write_files(folder, 0)
    run_trial(tracker, config(folder), [1.5], TrialResult(outcome="outclassed", reason="Why."))
    close(tracker)
    assert artifacts(folder, children(folder)[0]) == {"log.txt"}


def test_a_dropped_adapter_is_gone(folder: Path) -> None:
    tracker = opened(folder)
    write_files(folder, 0)
    run_trial(tracker, config(folder), [1.5])
    wait_for(lambda: True, tracker)
    for number in (0, 0, 7):  # 7 never ran
        tracker.drop_adapter(number, folder / "trials" / f"{number:03d}" / "adapter")
    close(tracker)
    assert not (folder / "trials" / "000" / "adapter").exists()
    assert artifacts(folder, children(folder)[0]) == {"log.txt"}


def test_the_machines_load_is_a_system_metric_of_the_sweep(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_IDLE_SECONDS", 0.02)
    tracker = opened(folder)
    wait_for(lambda: "system/cpu_utilization_percentage" in metrics(folder), tracker)
    close(tracker)


def metrics(folder: Path) -> dict[str, float]:
    return dict(parent(folder).data.metrics)


def test_nothing_is_printed(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "mlflow.db").unlink()  # the tables are created here
    tracker = opened(folder)
    write_files(folder, 0)
    run_trial(tracker, config(folder), [1.5])
    close(tracker)
    assert capfd.readouterr() == ("", "")


def test_a_server_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    uri = f"http://me:secret@127.0.0.1:{free_port()}"
    started = time.monotonic()
    with pytest.raises(TrackingError, match=r"Connection refused\. Start that server") as raised:
        MlflowTracker(uri=uri, name="quick", artifacts_dir=None, output_dir=tmp_path)
    assert "secret" not in str(raised.value)
    assert time.monotonic() - started < 5


def test_an_address_without_its_scheme_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=r"must start with .*, not localhost:5000"):
        opened(tmp_path, uri="localhost:5000")


def test_a_file_that_is_no_database_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, " * 100)
    with pytest.raises(TrackingError, match=r"mlflow\.db cannot be used: file is not a database"):
        opened(tmp_path)


def test_a_deleted_experiment_is_named(folder: Path) -> None:
    tracker = opened(folder)
    close(tracker)
    client(folder).delete_experiment(index(folder).experiment_id)
    with pytest.raises(TrackingError, match="deleted MLflow experiment, as 'quick' is"):
        opened(folder)


def test_the_ui_of_a_server_is_its_own() -> None:
    with pytest.raises(TrackingError, match=r"on a server, https://host\. Open"):
        ui_command("https://me:secret@host", 5000)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def serving(command: list[str], folder: Path, port: int) -> Iterator[str]:
    """Run an MLflow server until it answers, and kill it at the end."""
    with (folder / "server.log").open("a") as log:
        server = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, (folder / "server.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.communicate()


def get(address: str, host: str | None = None) -> str:
    request = urllib.request.Request(address, headers={"Host": host} if host else {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read().decode())


def test_the_ui_shows_a_sweep_to_this_machine_only(folder: Path) -> None:
    tracker = opened(folder)
    write_files(folder, 0)
    run_trial(tracker, config(folder), [1.5])
    close(tracker)
    (child,) = children(folder)
    port = free_port()
    with serving(ui_command(f"sqlite:///{folder}/mlflow.db", port), folder, port) as address:
        assert "<!doctype html>" in get(address)
        log = f"{address}/get-artifact?path=log.txt&run_uuid={child.info.run_id}"
        assert get(log) == "step 1\n"
        assert get(log, host="localhost:8080") == "step 1\n"  # through a tunnel
        with pytest.raises(urllib.error.HTTPError, match="403"):
            get(log, host="evil.example")
    assert not (folder / "mlruns").exists()


def server(folder: Path, port: int) -> list[str]:
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    return [*command, "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]


def test_a_sweep_goes_on_without_its_server_and_all_of_it_arrives(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    uri = f"http://me:hunter2@127.0.0.1:{port}"
    adapter = folder / "trials" / "000" / "adapter"
    write_files(folder, 0)
    with serving(server(folder, port), folder, port):
        tracker = opened(folder, uri=uri)
        tracker.trial_started(config(folder), PLACE)
        tracker.trial_reported(0, point(1, 1.5))
        wait_for(lambda: True, tracker)
    with monkeypatch.context() as impatient:
        impatient.setattr(writer, "_CLOSING_PATIENCE_SECONDS", 0.3)
        impatient.setattr("sweep.tracking.mlflow_tracker.STOPPED_PATIENCE_SECONDS", 0.3)
        tracker.trial_reported(0, point(2, 1.25))
        tracker.trial_ended(0, TrialResult(outcome="interrupted", reason="Ctrl-C."))
        tracker.close_sweep("KILLED", None, "Interrupted.")
    assert tracker.unsent == 5
    assert re.search(
        r"5 writes did not reach MLflow: .*[Cc]onnection.*They are kept.* sweep sync",
        tracker.in_words or "",
    )
    with pytest.raises(TrackingError, match=r"5 writes of quick have not. .*sweep sync"):
        opened(folder)

    second = opened(folder, uri=uri)
    assert second.is_away
    assert "Connection refused" in (second.first_error or "")
    run_trial(second, config(folder), [1.5, 1.25, 1.125])
    second.drop_adapter(0, adapter)
    assert not adapter.exists()
    with serving(server(folder, port), folder, port) as address:
        close(second)
        (child,) = children(folder)
        assert history(folder, child, "eval_loss") == [(10, 1.5), (20, 1.25), (30, 1.125)]
        assert (child.info.status, child.data.tags["outcome"]) == ("FINISHED", "completed")
        assert parent(folder).info.status == "FINISHED"
        files = MlflowClient(tracking_uri=address).list_artifacts(child.info.run_id)
        assert [file.path for file in files] == ["log.txt"]
    ours = [path for path in folder.iterdir() if path.is_file() and path.suffix != ".log"]
    assert not [path for path in ours if b"hunter2" in path.read_bytes()]


@pytest.mark.long
def test_a_server_that_does_not_answer_delays_a_known_sweep_for_seconds_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(writer, "_CLOSING_PATIENCE_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        (folder / "mlflow.json").write_text(json.dumps({"uri": uri, "experiment_id": "1"}))
        started = time.monotonic()
        tracker = opened(folder, uri=uri)
        assert time.monotonic() - started < 4
        assert tracker.is_away
        tracker.close_sweep("KILLED", None, "Interrupted.")
    assert tracker.unsent == 2


def story(folder: Path) -> dict[str, Any]:
    """All that MLflow has of the one sweep in a folder, without ids and times."""
    told: dict[str, Any] = {}
    (experiment,) = client(folder).search_experiments(filter_string=f"name = '{folder.name}'")
    for run in client(folder).search_runs([experiment.experiment_id]):
        number = run.data.tags.get("trial_number", "parent")
        assert number not in told
        told[number] = {
            "name": run.info.run_name.removeprefix(folder.name),
            "status": run.info.status,
            "params": run.data.params,
            "tags": {k: v for k, v in run.data.tags.items() if k in COMPARED},
            "metrics": {name: history(folder, run, name) for name in run.data.metrics},
            "artifacts": artifacts(folder, run) | artifacts(folder, run, "adapter"),
        }
    return told


COMPARED = {"outcome", "outcome_reason", "gpu", "node", "dataset", "winner_trial", "not_finite"}


def killed(folder: Path, n_kills: int, database: Path) -> Path:
    """The folder of a sweep whose process was killed so many times."""
    new_folder(folder, database)
    module = "tests.sweep.tracking.killed_tracker"
    command = [sys.executable, "-m", module, str(folder), str(n_kills)]
    subprocess.run(command, check=True, timeout=120)
    return folder


def test_a_sweep_that_is_killed_at_any_moment_looks_as_if_it_never_was(
    tmp_path: Path, empty_database: Path
) -> None:
    undisturbed = story(killed(tmp_path / "calm", 0, empty_database))
    assert len(undisturbed) == 5
    assert undisturbed["0"]["metrics"]["eval_loss"] == [(0, 2.5), (5, 1.5), (10, 1.25), (15, 1.75)]
    assert undisturbed["2"]["artifacts"] == {"log.txt"}
    assert story(killed(tmp_path / "killed", 6, empty_database)) == undisturbed


def test_the_rest_of_a_killed_sweep_leaves_nothing_running(folder: Path) -> None:
    tracker = opened(folder)
    tracker.trial_started(config(folder), PLACE)
    wait_for(lambda: True, tracker)
    said: list[str] = []
    assert send_rest(folder, None, said.append) == 0
    (child,) = children(folder)
    assert (child.info.status, child.data.tags["outcome"]) == ("KILLED", "interrupted")
    assert parent(folder).info.status == "KILLED"
    assert said[-1] == "1 of 1 sent"
    assert send_rest(folder, None, said.append) == 0
    assert "already has everything" in said[-1]


def test_events_that_are_sent_twice_change_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    take_off = Journal.sent

    def sent(journal: Journal, event: Event) -> None:
        events.append(event)
        take_off(journal, event)

    monkeypatch.setattr(Journal, "sent", sent)
    tracker = opened(folder)
    write_files(folder, 0)
    run_trial(tracker, config(folder), [1.5, 1.25], replace(COMPLETED, training_seconds=2.0))
    close(tracker)
    before = story(folder)
    assert len(events) == 9
    runs = Runs(index(folder))  # of another process
    for event in [*events, *[event for event in events for _ in range(2)]]:
        runs.send(event)
    assert story(folder) == before


def test_of_a_run_that_was_created_twice_the_one_in_use_stays(folder: Path) -> None:
    tracker = opened(folder)
    run_trial(tracker, config(folder), [1.5])
    wait_for(lambda: True, tracker)
    (child,) = children(folder)
    for start in (1, child.info.start_time):  # created by requests that were given up as too slow
        tags = {"mlflow.parentRunId": parent(folder).info.run_id, "trial_number": "0"}
        client(folder).create_run(child.info.experiment_id, start, tags)
    close(tracker)
    again = opened(folder)
    run_trial(again, config(folder), [1.5])
    close(again)
    assert [run.info.run_id for run in children(folder)] == [child.info.run_id]


def test_a_sweep_whose_folder_was_moved_has_its_database_with_it(folder: Path) -> None:
    close(opened(folder))
    there = folder.rename(folder.parent / "elsewhere")
    assert tracked_at(there) == f"sqlite:///{there}/mlflow.db"


def test_a_copy_has_a_database_of_its_own_beside_its_original(folder: Path) -> None:
    close(opened(folder))
    (folder / "sweep.json").write_text("{}")
    copy = shutil.copytree(folder, folder.parent / "copy")
    assert tracked_at(copy) == f"sqlite:///{copy}/mlflow.db"
    assert tracked_at(folder) == f"sqlite:///{folder}/mlflow.db"


def test_a_second_end_of_a_trial_changes_nothing(folder: Path) -> None:
    tracker = opened(folder)
    run_trial(tracker, config(folder), [1.5], replace(COMPLETED, training_seconds=2.0))
    tracker.trial_ended(0, TrialResult(outcome="failed", reason="Why.", training_seconds=3.0))
    close(tracker)
    (child,) = children(folder)
    assert (child.info.status, child.data.tags["outcome"]) == ("FINISHED", "completed")
    assert history(folder, child, "training_seconds") == [(0, 2.0)]


def test_a_write_that_mlflow_refuses_is_skipped_and_said(folder: Path) -> None:
    tracker = opened(folder)
    tracker.trial_started(config(folder), PLACE)
    wait_for(lambda: True, tracker)
    client(folder).delete_run(children(folder)[0].info.run_id)  # in the UI, say
    tracker.trial_reported(0, point(1, 1.5))
    run_trial(tracker, config(folder, 1), [1.25])
    tracker.close_sweep("FINISHED", None, "Done.")
    assert tracker.unsent == 0
    assert re.match(r"MLflow rejected 1 write; the first: ", tracker.in_words or "")
    (child,) = children(folder)
    assert history(folder, child, "eval_loss") == [(10, 1.25)]
    assert child.info.status == "FINISHED"


def test_an_adapter_is_dropped_before_its_upload_has_begun(folder: Path) -> None:
    tracker = opened(folder)
    write_files(folder, 0)
    adapter = folder / "trials" / "000" / "adapter"
    run_trial(tracker, config(folder), [1.5])
    tracker.drop_adapter(0, adapter)
    assert not adapter.exists()
    close(tracker)
    assert artifacts(folder, children(folder)[0]) == {"log.txt"}


@pytest.mark.parametrize(
    ("code", "words", "refused"),
    [
        ("TEMPORARILY_UNAVAILABLE", "(sqlite3.OperationalError) database or disk is full", False),
        ("BAD_REQUEST", "(psycopg2.InterfaceError) connection already closed", False),
        ("RESOURCE_ALREADY_EXISTS", "Experiment(name=quick) already exists", False),
        ("INTERNAL_ERROR", "API request failed with error code 500", False),
        ("INVALID_PARAMETER_VALUE", "Param value exceeded the maximum length", True),
        ("BAD_REQUEST", "(sqlite3.IntegrityError) NOT NULL constraint failed", True),
    ],
)
def test_only_what_is_wrong_for_good_is_given_up(code: str, words: str, refused: bool) -> None:
    error = MlflowException(words, error_code=ErrorCode.Value(code))
    assert is_refused(error) == refused


def test_nothing_can_be_sent_for_a_sweep_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=r"mlflow_journal\.jsonl does not exist"):
        send_rest(tmp_path / "none", None, print)


def test_a_journal_without_an_address_asks_for_one(tmp_path: Path) -> None:
    Journal(tmp_path / "mlflow_journal.jsonl").append("stop", {})
    with pytest.raises(TrackingError, match=r"Name it with --mlflow"):
        send_rest(tmp_path, None, print)


def test_answers_are_a_table_of_the_parent_run_as_long_as_they_are_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, answers = folder / "report.html", folder / "answers.json"
    report.write_text("<p>")
    table = {"columns": ["prompt", "base model"], "data": [["Who?", "Ä"], ["Where?", "there"]]}
    answers.write_text(json.dumps(table))
    tracker = opened(folder)
    tracker.close_sweep("FINISHED", None, "Done.", report, answers=answers)
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("quick")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client.tracking_uri)  # `load_table` searches with it
    found = client.load_table(experiment.experiment_id, "answers.json")
    assert found.to_dict("split", index=False) == table
    again = opened(folder)
    again.close_sweep("FINISHED", None, "Done.", report)
    (run,) = client.search_runs([experiment.experiment_id])
    assert "answers.json" not in [file.path for file in client.list_artifacts(run.info.run_id)]
    assert "mlflow.loggedArtifacts" not in run.data.tags
