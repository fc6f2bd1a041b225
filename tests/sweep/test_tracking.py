from __future__ import annotations

import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from sweep import background
from sweep.background import Writer
from sweep.loop import Place
from sweep.study import Tracker
from sweep.tracking import MlflowTracker, TrackingError, ui_command
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
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    (tmp_path / "space.yaml").write_text("name: quick\n")
    return tmp_path


def NOTHING() -> None:  # noqa: N802 - a constant that can be called
    pass


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


def point(index: int, eval_loss: float, train_loss: float | None = 1.0) -> EvalPoint:
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


def parent(folder: Path, tracker: MlflowTracker) -> Any:
    return client(folder).get_run(tracker.parent_run_id)


def children(folder: Path, tracker: MlflowTracker) -> list[Any]:
    chosen = f"tags.`mlflow.parentRunId` = '{tracker.parent_run_id}'"
    return list(client(folder).search_runs([tracker.experiment_id], chosen))


def history(folder: Path, run: Any, metric: str) -> list[tuple[int, float]]:
    values = client(folder).get_metric_history(run.info.run_id, metric)
    return [(value.step, value.value) for value in values]


def test_a_trial_is_a_child_run_of_the_sweep(folder: Path) -> None:
    tracker = opened(folder)
    run_trial(tracker, config(folder), [1.5, 1.25])
    close(tracker)
    (child,) = children(folder, tracker)
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
    (child,) = children(folder, tracker)
    assert history(folder, child, "eval_loss") == [(10, 1.5), (20, 1.75)]
    assert history(folder, child, "eval_loss_best") == [(10, 1.5), (20, 1.5)]
    assert history(folder, child, "generalisation_gap") == [(10, 0.5), (20, 0.75)]
    assert history(folder, child, "epoch") == [(10, 1.0), (20, 2.0)]


def test_a_measurement_that_is_missing_stays_missing(folder: Path) -> None:
    tracker = opened(folder)
    run_trial(tracker, config(folder), [1.5])
    close(tracker)
    assert "gpu_memory_gib" not in children(folder, tracker)[0].data.metrics


def test_every_setting_is_a_parameter(folder: Path) -> None:
    tracker = opened(folder)
    run_trial(tracker, config(folder), [1.5])
    close(tracker)
    params = children(folder, tracker)[0].data.params
    wanted = {"base_model": "tiny", "backend": "transformers", "rank": "16", "alpha": "32.0"}
    wanted |= {"learning_rate": "0.00031", "epochs": "2.0", "effective_batch_size": "16"}
    wanted |= {"micro_batch_size": "8", "gradient_accumulation_steps": "2", "seed": "1"}
    assert wanted.items() <= params.items()
    assert not {"data_dir", "output_dir", "number", "model", "revision"} & params.keys()


def test_the_micro_batch_logged_is_the_one_that_fitted(folder: Path) -> None:
    tracker = opened(folder)
    run_trial(tracker, config(folder), [1.5], replace(COMPLETED, micro_batch_size=4))
    close(tracker)
    params = children(folder, tracker)[0].data.params
    assert (params["micro_batch_size"], params["gradient_accumulation_steps"]) == ("4", "4")


@pytest.mark.parametrize(
    ("outcome", "status"),
    [("overfit", "FINISHED"), ("diverged", "KILLED"), ("out_of_memory", "FAILED")],
)
def test_the_outcome_decides_the_status(folder: Path, outcome: Outcome, status: str) -> None:
    tracker = opened(folder)
    run_trial(tracker, config(folder), [1.5], TrialResult(outcome=outcome, reason="Why."))
    close(tracker)
    assert children(folder, tracker)[0].info.status == status


def test_the_loss_before_the_first_step_is_the_base_models(folder: Path) -> None:
    tracker = opened(folder)
    tracker.trial_started(config(folder), PLACE)
    tracker.trial_reported(0, point(0, 2.5, train_loss=None))
    tracker.trial_ended(0, COMPLETED)
    close(tracker)
    (child,) = children(folder, tracker)
    assert parent(folder, tracker).data.metrics["base_eval_loss"] == 2.5
    assert history(folder, child, "eval_loss") == [(0, 2.5)]
    assert "eval_loss_best" not in child.data.metrics


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_shown_and_named(folder: Path, loss: float) -> None:
    tracker = opened(folder)
    run_trial(tracker, config(folder), [1.5, loss], TrialResult(outcome="diverged", reason="Why."))
    close(tracker)
    (child,) = children(folder, tracker)
    assert child.data.tags["not_finite"] == f"step 20: eval_loss {loss}, train_loss 1.0"
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
    (child,) = children(folder, second)
    assert child.data.tags["outcome"] == "completed"
    assert history(folder, child, "eval_loss") == [(10, 1.5), (20, 1.25)]
    assert history(folder, child, "eval_loss_best") == [(10, 1.5), (20, 1.25)]


def test_a_trial_that_goes_on_has_no_outcome_yet(folder: Path) -> None:
    tracker = opened(folder)
    run_trial(tracker, config(folder), [1.5], TrialResult(outcome="interrupted", reason="Ctrl-C."))
    tracker.trial_started(config(folder), PLACE)
    wait_for(lambda: children(folder, tracker)[0].info.status == "RUNNING", tracker)
    tags = children(folder, tracker)[0].data.tags
    assert not {"outcome", "outcome_reason"} & tags.keys()
    close(tracker)


def wait_for(condition: Any, tracker: MlflowTracker) -> None:
    deadline = time.monotonic() + 10
    while tracker.unsent or not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_resumed_sweep_goes_on_in_the_same_parent_run(folder: Path) -> None:
    first = opened(folder, trials=24)
    close(first)
    second = opened(folder, trials=48, hours=8)
    assert second.parent_run_id == first.parent_run_id
    assert parent(folder, second).info.status == "RUNNING"
    close(second)
    assert parent(folder, second).data.params == {"trials": "24", "hours": "8"}


def test_two_sweeps_of_one_name_keep_apart(folder: Path) -> None:
    mine = opened(folder)
    close(mine)
    (folder / "mlflow_sweep_id.txt").unlink()  # as from another folder, on one server
    theirs = opened(folder)
    close(theirs)
    assert mine.experiment_id == theirs.experiment_id
    assert mine.parent_run_id != theirs.parent_run_id


def test_the_parent_run_tells_how_the_sweep_ended(folder: Path) -> None:
    tracker = opened(folder)
    run_trial(tracker, config(folder, number=3), [1.5])
    tracker.close_sweep("FINISHED", {"trial": 3, "eval_loss": 1.5, "rank": 16}, "# Rank 16 won")
    run = parent(folder, tracker)
    (child,) = children(folder, tracker)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "quick"
    assert run.data.metrics["best_eval_loss"] == 1.5
    assert run.data.tags["mlflow.note.content"] == "# Rank 16 won"
    assert (run.data.tags["winner_trial"], run.data.tags["winner_rank"]) == ("3", "16")
    assert run.data.tags["winner_run_id"] == child.info.run_id
    assert run.data.tags["dataset"] == "f00d"


def test_no_trial_is_left_running(folder: Path) -> None:
    tracker = opened(folder)
    tracker.trial_started(config(folder), PLACE)
    close(tracker)
    (child,) = children(folder, tracker)
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
    (child,) = children(folder, tracker)
    assert artifacts(folder, child) == {"adapter", "log.txt"}
    assert artifacts(folder, child, "adapter") == {"adapter/adapter_config.json"}
    assert (folder / "mlartifacts" / child.info.run_id / "artifacts" / "log.txt").exists()
    assert artifacts(folder, parent(folder, tracker)) == {"space.yaml"}


def test_an_outclassed_trial_keeps_its_log_only(folder: Path) -> None:
    tracker = opened(folder)
    write_files(folder, 0)
    run_trial(tracker, config(folder), [1.5], TrialResult(outcome="outclassed", reason="Why."))
    close(tracker)
    assert artifacts(folder, children(folder, tracker)[0]) == {"log.txt"}


def test_a_dropped_adapter_is_gone(folder: Path) -> None:
    tracker = opened(folder)
    write_files(folder, 0)
    run_trial(tracker, config(folder), [1.5])
    tracker.drop_adapter(0, NOTHING)
    tracker.drop_adapter(0, NOTHING)
    tracker.drop_adapter(7, NOTHING)  # never ran
    close(tracker)
    assert artifacts(folder, children(folder, tracker)[0]) == {"log.txt"}


def test_the_machines_load_is_a_system_metric_of_the_sweep(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "_IDLE_SECONDS", 0.02)
    tracker = opened(folder)
    wait_for(lambda: "system/cpu_utilization_percentage" in metrics(folder, tracker), tracker)
    close(tracker)


def metrics(folder: Path, tracker: MlflowTracker) -> dict[str, float]:
    return dict(parent(folder, tracker).data.metrics)


def test_nothing_is_printed(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "mlflow.db").unlink()  # the tables are created here
    tracker = opened(folder)
    write_files(folder, 0)
    run_trial(tracker, config(folder), [1.5])
    close(tracker)
    assert capfd.readouterr() == ("", "")


def new_writer() -> Writer:
    return Writer(is_final=lambda error: isinstance(error, ZeroDivisionError), idle=lambda: None)


def test_a_slow_write_makes_nobody_wait() -> None:
    answer = threading.Event()
    sent: list[str] = []
    writer = new_writer()
    writer.put(answer.wait)
    writer.put(partial(sent.append, "next"))
    assert sent == []
    answer.set()
    writer.close()
    assert sent == ["next"]


def failing(n_times: int, sent: list[str]) -> Any:
    left = iter(range(n_times))

    def write() -> None:
        if next(left, None) is not None:
            raise OSError("http://me:secret@host/path?token=secret is away\nmore")
        sent.append("late")

    return write


def test_a_write_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_RETRY_WAITS_SECONDS", (0.001, 0.001))
    sent: list[str] = []
    writer = new_writer()
    writer.put(failing(2, sent))
    writer.close()
    assert (sent, writer.unsent) == (["late"], 0)


def test_a_lost_write_is_counted_and_the_next_one_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_RETRY_WAITS_SECONDS", (0.001, 0.001))
    sent: list[str] = []
    writer = new_writer()
    writer.put(failing(3, sent))
    writer.put(partial(sent.append, "next"))
    writer.close()
    assert (sent, writer.unsent) == (["next"], 1)
    assert writer.first_error == "http://host/path is away."


def test_a_write_that_is_refused_is_not_tried_again() -> None:
    writer = new_writer()
    writer.put(lambda: 1 / 0)
    started = time.monotonic()
    writer.close()
    assert time.monotonic() - started < 1
    assert (writer.unsent, writer.first_error) == (1, "division by zero.")


def test_a_dead_server_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_CLOSING_PATIENCE_SECONDS", 0.2)
    answer = threading.Event()
    writer = new_writer()
    writer.put(answer.wait)
    writer.put(answer.wait)
    started = time.monotonic()
    writer.close()
    assert time.monotonic() - started < 2
    assert writer.unsent == 2
    answer.set()


def test_a_server_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    uri = f"http://me:secret@127.0.0.1:{free_port()}"
    started = time.monotonic()
    with pytest.raises(TrackingError, match=r"Connection refused\. Start that server") as raised:
        MlflowTracker(uri=uri, name="quick", artifacts_dir=None, output_dir=tmp_path)
    assert "secret" not in str(raised.value)
    assert time.monotonic() - started < 5


def test_an_address_without_its_scheme_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=r"must begin with .*; localhost:5000 does not"):
        opened(tmp_path, uri="localhost:5000")


def test_a_file_that_is_no_database_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, " * 100)
    with pytest.raises(TrackingError, match=r"mlflow\.db cannot be used: file is not a database"):
        opened(tmp_path)


def test_a_deleted_experiment_is_named(folder: Path) -> None:
    tracker = opened(folder)
    close(tracker)
    client(folder).delete_experiment(tracker.experiment_id)
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
            command, cwd=folder, stdout=log, stderr=log, start_new_session=True
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
        server.wait()


def get(address: str, host: str | None = None) -> str:
    request = urllib.request.Request(address, headers={"Host": host} if host else {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read().decode())


def test_the_ui_shows_a_sweep_to_this_machine_only(folder: Path) -> None:
    tracker = opened(folder)
    write_files(folder, 0)
    run_trial(tracker, config(folder), [1.5])
    close(tracker)
    (child,) = children(folder, tracker)
    port = free_port()
    with serving(ui_command(f"sqlite:///{folder}/mlflow.db", port), folder, port) as address:
        assert "<!doctype html>" in get(address)
        log = f"{address}/get-artifact?path=log.txt&run_uuid={child.info.run_id}"
        assert get(log) == "step 1\n"
        assert get(log, host="localhost:8080") == "step 1\n"  # through a tunnel
        with pytest.raises(urllib.error.HTTPError, match="403"):
            get(log, host="evil.example")
    assert not (folder / "mlruns").exists()


def test_a_server_that_is_restarted_loses_nothing(folder: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    write_files(folder, 0)
    with serving(command, folder, port) as address:
        tracker = opened(folder, uri=address)
        tracker.trial_started(config(folder), PLACE)
        tracker.trial_reported(0, point(1, 1.5))
        wait_for(lambda: True, tracker)
    tracker.trial_reported(0, point(2, 1.25))
    tracker.trial_ended(0, COMPLETED)
    with serving(command, folder, port):
        tracker.drop_adapter(0, NOTHING)
        close(tracker)
        (child,) = children(folder, tracker)
        assert history(folder, child, "eval_loss") == [(10, 1.5), (20, 1.25)]
        assert (child.info.status, parent(folder, tracker).info.status) == ("FINISHED",) * 2
        files = MlflowClient(tracking_uri=address).list_artifacts(child.info.run_id)
        assert [file.path for file in files] == ["log.txt"]
