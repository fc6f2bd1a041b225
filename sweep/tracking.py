"""Write a sweep to MLflow: a parent run for the sweep, a child run for each trial."""

from __future__ import annotations

import getpass
import logging
import math
import os
import re
import sqlite3
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from sweep.background import Writer, in_a_line, without_secrets
from sweep.loop import Place
from trials.config import EvalPoint, Outcome, TrialConfig, TrialResult

# MLflow reads most of these when it is imported, and `mlflow server` inherits them from us.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # ours come instead: its 7 take minutes
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # else eight more processes beside the UI
}.items():
    os.environ.setdefault(_name, _value)

from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Metric, Param, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.store.artifact.artifact_repository_registry import (  # noqa: E402
    get_artifact_repository,
)

_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_LONGEST_TAG = 5000  # characters; MLflow 3.17 takes 8000, older servers less

_STATUS: dict[Outcome, str] = {
    "completed": "FINISHED",
    "overfit": "FINISHED",
    "diverged": "KILLED",
    "outclassed": "KILLED",
    "interrupted": "KILLED",
    "out_of_memory": "FAILED",
    "failed": "FAILED",
}


class TrackingError(ValueError):
    """An MLflow server or database that cannot be used, in words for the person who named it."""


def ui_command(uri: str, port: int) -> list[str]:
    """Return the command that shows the database `uri` at http://127.0.0.1:`port`, to this machine.

    Raises:
        TrackingError: `uri` is a server, which has a UI of its own.
    """
    if uri.startswith(("http://", "https://")):
        raise TrackingError(
            f"MLflow's UI is started for a sweep's own database; this sweep is on a server, "
            f"{without_secrets(uri)}. Open that address in a browser."
        )
    # The host names stop DNS rebinding; any port, because of tunnels: ssh -L 8080:localhost:5000.
    hosts = "127.0.0.1:*,localhost:*"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--no-serve-artifacts", "--workers", "1", "--uvicorn-opts", "--log-level warning"]
    return [*command, "--host", "127.0.0.1", "--port", str(port), "--allowed-hosts", hosts]


@dataclass(slots=True)
class _Child:
    """What the writer remembers of a trial's run."""

    run_id: str
    steps: set[int]
    """Optimizer steps whose evaluation is logged already."""
    best: float
    """The lowest eval loss after step 0; infinite before the first."""


class MlflowTracker:
    """A `Tracker` that writes to MLflow in the background.

    Nothing raises after `open_sweep`, and nothing but `close_sweep` waits for MLflow: what could
    not be written is counted in `unsent`.

    Args:
        uri: `sqlite:////absolute/path.db`, or a server's http(s) address.
        name: The sweep's name, and the experiment's.
        artifacts_dir: Where a new experiment keeps artifacts; None leaves it to the server.
        output_dir: The sweep's folder. A file in it, `mlflow_sweep_id.txt`, tells this sweep's
            parent run from one of the same name that somebody else has on the same server.

    Raises:
        TrackingError: `uri` cannot be used, or does not answer within 10 seconds.
    """

    experiment_id: str
    """Known once the sweep is open."""
    parent_run_id: str
    """The sweep's own run. Known once the sweep is open."""

    def __init__(
        self, *, uri: str, name: str, artifacts_dir: Path | None, output_dir: Path
    ) -> None:
        self._uri = uri
        self._name = name
        self._artifacts_dir = artifacts_dir
        self._output_dir = output_dir
        self._started: dict[int, tuple[TrialConfig, Place, int]] = {}
        self._children: dict[int, _Child] = {}
        self._writer: Writer | None = None
        self._monitors = _system_monitors()
        for logger in ("mlflow", "alembic"):
            logging.getLogger(logger).setLevel(logging.ERROR)
        if not uri.startswith(("sqlite:///", "http://", "https://")):
            raise TrackingError(
                f"An MLflow address must begin with http://, https:// or sqlite:///; "
                f"{without_secrets(uri)} does not. Write it out, as in http://localhost:5000."
            )
        with self._opening():
            if uri.startswith("sqlite:///"):
                _check_sqlite(Path(uri.removeprefix("sqlite:///")))
            self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            self._client.search_experiments(max_results=1)

    def open_sweep(
        self, params: Mapping[str, object], tags: Mapping[str, str], space_path: Path
    ) -> None:
        """Continue this sweep's parent run, or create it. A parameter logged before stays as it is.

        Raises:
            TrackingError: MLflow refuses, or does not answer within 10 seconds.
        """
        with self._opening():
            self.experiment_id = self._find_or_create_experiment()
            parent = self._find_or_create_parent()
            self.parent_run_id = parent.info.run_id
            self._interrupt_running()
            note = f"**{self._name}** is running. Its folder: `{self._output_dir}`."
            self._log_params(parent, params)
            self._set_tags(self.parent_run_id, {**tags, "mlflow.note.content": note})
            self._client.log_artifact(self.parent_run_id, str(space_path))
        self._parent_start: int = parent.info.start_time
        self._writer = Writer(is_final=_is_refused, idle=self._sample_system)

    def trial_started(self, config: TrialConfig, place: Place) -> None:
        """Begin the child run of trial `config.number`, or go on in the one that it has."""
        self._started[config.number] = (config, place, _now())
        self._put(self._begin, config.number)

    def trial_reported(self, number: int, point: EvalPoint) -> None:
        """Log one evaluation; point 0 is also the sweep's `base_eval_loss`."""
        self._put(self._report, number, point, _now())

    def trial_ended(self, number: int, result: TrialResult) -> None:
        """Log how the trial ended, then its log, config.json and, if it is whole, its adapter."""
        self._put(self._end, number, result, _now())
        self._put(self._upload, number, "log.txt")
        self._put(self._upload, number, "config.json")
        if _STATUS[result.outcome] == "FINISHED":
            self._put(self._upload, number, "adapter")

    def drop_adapter(self, number: int, then: Callable[[], None]) -> None:
        """Delete the adapter of trial `number` from its run's artifacts, if it is there.

        Args:
            then: Called afterwards, when no upload reads the trial's folder any more.
        """
        self._put(self._drop_adapter, number)
        self._put(then)

    def close_sweep(
        self,
        status: Literal["FINISHED", "FAILED", "KILLED"],
        winner: Mapping[str, object] | None,
        summary: str,
    ) -> None:
        """Send what is left and end the parent run. Gives up 60 s after the last successful write.

        Args:
            winner: `trial` (its number), `eval_loss`, and whatever else is worth a tag.
            summary: Markdown, shown as the parent run's description.
        """
        self._put(self._interrupt_running)
        self._put(self._close, status, winner, summary, _now())
        assert self._writer is not None
        self._writer.close()

    @property
    def unsent(self) -> int:
        """Writes that have not reached MLflow: after `close_sweep`, those that never will."""
        return 0 if self._writer is None else self._writer.unsent

    @property
    def first_error(self) -> str | None:
        """Why the first of the unsent writes failed; None when it was not even tried."""
        return None if self._writer is None else self._writer.first_error

    def _put(self, write: Callable[..., None], *arguments: object) -> None:
        assert self._writer is not None, "open_sweep comes first"
        self._writer.put(partial(write, *arguments))

    @contextmanager
    def _opening(self) -> Iterator[None]:
        ours = _TIMEOUT not in os.environ
        os.environ.setdefault(_TIMEOUT, "10")  # not MLflow's 120: somebody is looking on
        try:
            yield
        except (MlflowException, sqlite3.Error, OSError) as error:
            uri, cause = without_secrets(self._uri), in_a_line(error)
            raise TrackingError(
                f"MLflow must be there before a sweep begins, but {uri} cannot be used: {cause} "
                f"{_mend(self._uri, cause)}"
            ) from None  # the cause's own traceback may hold credentials
        finally:
            if ours:
                del os.environ[_TIMEOUT]

    def _find_or_create_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._name)
        if found is None:
            location = None if self._artifacts_dir is None else self._artifacts_dir.as_uri()
            # Without the tag MLflow's UI takes it for an experiment with prompts and traces.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            return str(self._client.create_experiment(self._name, location, kind))
        if found.lifecycle_stage == "deleted":
            raise TrackingError(
                f"A sweep's name must not be that of a deleted MLflow experiment, as "
                f"{self._name!r} is. Give the sweep another name, or restore the experiment: "
                f"mlflow experiments restore --experiment-id {found.experiment_id}"
            )
        return str(found.experiment_id)

    def _find_or_create_parent(self) -> Any:
        tags = {"sweep.role": "parent", "sweep.id": _sweep_id(self._output_dir)}
        found = self._find_run(tags)
        if found is None:
            tags |= _source()
            return self._client.create_run(self.experiment_id, tags=tags, run_name=self._name)
        self._client.update_run(found.info.run_id, status="RUNNING")
        return found

    def _find_child(self, number: int) -> Any:
        return self._find_run(self._child_tags(number))

    def _child_tags(self, number: int) -> dict[str, str]:
        return {"mlflow.parentRunId": self.parent_run_id, "trial_number": str(number)}

    def _find_run(self, tags: Mapping[str, str]) -> Any:
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self._client.search_runs([self.experiment_id], wanted, max_results=1)
        return found[0] if found else None

    def _child(self, number: int) -> _Child:
        if number not in self._children:  # its first write has failed for good
            self._begin(number)
        return self._children[number]

    def _begin(self, number: int) -> None:
        config, place, started = self._started[number]
        run = self._find_child(number)  # also after a create_run whose answer was lost
        if run is None:
            tags = {**_source(), **self._child_tags(number)}
            run = self._client.create_run(self.experiment_id, started, tags, config.name)
        run_id = run.info.run_id
        if run.info.status != "RUNNING":
            self._client.update_run(run_id, status="RUNNING")
        for tag in {"outcome", "outcome_reason"} & run.data.tags.keys():
            self._client.delete_tag(run_id, tag)
        self._set_tags(run_id, {"gpu": place.device, "node": place.node})
        self._log_params(run, _params(config))
        history = self._client.get_metric_history(run_id, "eval_loss")
        losses = [m.value for m in history if m.step > 0 and math.isfinite(m.value)]
        steps = {m.step for m in history}
        self._children[number] = _Child(run_id, steps, min(losses, default=math.inf))

    def _report(self, number: int, point: EvalPoint, now: int) -> None:
        child = self._child(number)
        if point.step in child.steps:
            return
        best = child.best
        if point.index > 0 and math.isfinite(point.eval_loss):
            best = min(best, point.eval_loss)
        metrics = [Metric(k, v, now, point.step) for k, v in _metrics(point, best).items()]
        tags = []
        if not point.is_finite:  # MLflow keeps an infinity as the largest float
            text = f"step {point.step}: eval_loss {point.eval_loss}, train_loss {point.train_loss}"
            tags.append(RunTag("not_finite", text))
        if point.index == 0:
            base = Metric("base_eval_loss", point.eval_loss, now, 0)
            self._client.log_batch(self.parent_run_id, metrics=[base], synchronous=True)
        self._client.log_batch(child.run_id, metrics=metrics, tags=tags, synchronous=True)
        child.best = best
        child.steps.add(point.step)

    def _end(self, number: int, result: TrialResult, now: int) -> None:
        run_id = self._child(number).run_id
        config = self._started[number][0]
        if result.outcome != "interrupted":  # the trial goes on later, perhaps with another one
            micro_batch_size = result.micro_batch_size or config.micro_batch_size
            steps = config.effective_batch_size // (micro_batch_size * config.gpus_per_trial)
            found = {"micro_batch_size": micro_batch_size, "gradient_accumulation_steps": steps}
            if result.gradient_checkpointing is not None:
                found["gradient_checkpointing"] = result.gradient_checkpointing
            self._log_params(self._client.get_run(run_id), found)
        self._set_tags(run_id, {"outcome": result.outcome, "outcome_reason": result.reason})
        seconds = [
            Metric("training_seconds", result.training_seconds, now, 0),
            Metric("evaluation_seconds", result.evaluation_seconds, now, 0),
        ]
        self._client.log_batch(run_id, metrics=seconds, synchronous=True)
        self._client.set_terminated(run_id, _STATUS[result.outcome], end_time=now)

    def _upload(self, number: int, name: str) -> None:
        path = Path(self._started[number][0].output_dir) / name
        run_id = self._child(number).run_id
        if path.is_dir():
            self._client.log_artifacts(run_id, str(path), name)
        elif path.is_file():
            self._client.log_artifact(run_id, str(path))

    def _drop_adapter(self, number: int) -> None:
        run = self._find_child(number)
        if run is None or not self._client.list_artifacts(run.info.run_id, "adapter"):
            return
        artifacts = get_artifact_repository(run.info.artifact_uri, tracking_uri=self._uri)
        artifacts.delete_artifacts("adapter")

    def _interrupt_running(self) -> None:
        running = self._client.search_runs(
            [self.experiment_id],
            f"tags.`mlflow.parentRunId` = '{self.parent_run_id}' and status = 'RUNNING'",
        )
        for run in running:
            reason = "The sweep stopped before this trial's end was written."
            self._set_tags(run.info.run_id, {"outcome": "interrupted", "outcome_reason": reason})
            self._client.set_terminated(run.info.run_id, "KILLED")

    def _sample_system(self) -> None:
        now = _now()
        step = (now - self._parent_start) // 1000  # seconds: goes on when a sweep is resumed
        metrics = []
        for monitor in self._monitors:
            monitor.collect_metrics()
            values = monitor.aggregate_metrics()
            metrics += [Metric(f"system/{key}", value, now, step) for key, value in values.items()]
            monitor.clear_metrics()
        self._client.log_batch(self.parent_run_id, metrics=metrics, synchronous=True)

    def _close(
        self, status: str, winner: Mapping[str, object] | None, summary: str, now: int
    ) -> None:
        tags: dict[str, object] = {"mlflow.note.content": summary}
        if winner is not None:
            best = Metric("best_eval_loss", winner["eval_loss"], now, 0)
            self._client.log_batch(self.parent_run_id, metrics=[best], synchronous=True)
            tags |= {f"winner_{key}": value for key, value in winner.items()}
            run = self._find_child(int(str(winner["trial"])))
            if run is not None:
                tags["winner_run_id"] = run.info.run_id
        self._set_tags(self.parent_run_id, tags)
        self._client.set_terminated(self.parent_run_id, status, end_time=now)

    def _set_tags(self, run_id: str, tags: Mapping[str, object]) -> None:
        new = [RunTag(key, str(value)[:_LONGEST_TAG]) for key, value in tags.items()]
        self._client.log_batch(run_id, tags=new, synchronous=True)

    def _log_params(self, run: Any, params: Mapping[str, object]) -> None:
        known = run.data.params
        new = [Param(k, str(v)) for k, v in params.items() if v is not None and k not in known]
        for first in range(0, len(new), 100):  # MLflow takes 100 at a time
            batch = new[first : first + 100]
            self._client.log_batch(run.info.run_id, params=batch, synchronous=True)


def _system_monitors() -> list[Any]:
    """Return MLflow's probes of this machine.

    Not its SystemMetricsMonitor: that one writes from a second thread, gives up at the first
    error, and its end waits for the server.
    """
    with suppress(ImportError):  # psutil is optional in MLflow
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        found = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with suppress(ImportError, RuntimeError):  # no pynvml; no GPU
            found.append(GPUMonitor())
        return found
    return []


def _params(config: TrialConfig) -> dict[str, object]:
    """Return the settings that are known when a trial begins; the micro-batch is found later."""
    params: dict[str, object] = asdict(config)
    model = asdict(config.model)
    for key in ("model", "number", "data_dir", "output_dir", "micro_batch_size"):
        del params[key]
    return {"base_model": model.pop("name"), **model, **params}


def _metrics(point: EvalPoint, best: float) -> dict[str, float]:
    gap = point.eval_loss - point.train_loss if point.train_loss is not None else None
    values = {
        "train_loss": point.train_loss,
        "eval_loss": point.eval_loss,
        "eval_loss_best": best if math.isfinite(best) else None,
        "generalisation_gap": gap if point.is_finite else None,
        "learning_rate": point.learning_rate,
        "grad_norm": point.grad_norm,
        "tokens_per_second": point.tokens_per_second,
        "gpu_memory_gib": point.gpu_memory_gib,
        "epoch": point.epoch,
    }
    return {key: value for key, value in values.items() if value is not None}


def _sweep_id(output_dir: Path) -> str:
    path = output_dir / "mlflow_sweep_id.txt"
    if path.exists():
        return path.read_text().strip()
    output_dir.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(f"{uuid.uuid4()}\n")
    unfinished.replace(path)
    return path.read_text().strip()


def _source() -> dict[str, str]:
    tags = {"mlflow.source.name": "sweep", "mlflow.source.type": "LOCAL"}
    with suppress(KeyError, OSError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    return tags


def _check_sqlite(path: Path) -> None:
    # MLflow would try a file that is no database, or may not be written, for a minute and a half.
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=5)) as database:
        database.execute("BEGIN IMMEDIATE")


def _is_refused(error: Exception) -> bool:
    refused = isinstance(error, MlflowException) and error.get_http_status_code() == 400
    return refused or isinstance(error, NotImplementedError)


def _mend(uri: str, cause: str) -> str:
    if not uri.startswith("http"):
        return "Name a file that can be written, or a server's address."
    if re.search(r"\b(401|403)\b|UNAUTH|PERMISSION", cause):
        return "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or _TOKEN)."
    return "Start that server, correct its address, or name none: a database needs no server."


def _now() -> int:
    return time.time_ns() // 1_000_000
