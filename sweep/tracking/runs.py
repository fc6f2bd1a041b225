"""A sweep's runs in MLflow: a parent run for the sweep, a child run for each trial."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from types import MappingProxyType
from typing import Any

from sweep.events import UNKNOWN
from sweep.folder import layout
from sweep.tracking import entities, run_data
from sweep.tracking.client import NoRunError, mlflow
from sweep.tracking.description import NOTE, ending, with_addresses
from sweep.tracking.earlier import objective_of
from sweep.tracking.journal import Event
from sweep.tracking.location import sweep_id
from sweep.tracking.registry import is_registered, register
from sweep.tracking.run_index import Child, RunIndex, run_may_end
from sweep.tracking.saved_view import TAG as VIEW_TAG
from sweep.tracking.saved_view import saved_view
from trials.config import BY_EVAL_LOSS, TrialResult
from trials.trial_folder import ADAPTER

LAST = ("close", "stop")
"""Kinds of events after which nothing is left RUNNING."""
_TABLES = "mlflow.loggedArtifacts"
"""The tag by which MLflow finds tables, as its `log_table` writes it."""


class Runs:
    """Writes a sweep's events to its runs on one server, which is asked only when it must be.

    Each event may come twice, and changes nothing the second time: the process that sent it first
    may have died before it knew. So the server is asked what it has, unless an event is certain to
    be new: of a thousand trials each question costs.

    Args:
        tried: Sequence of the latest event that may have been sent before; infinite: any may.
    """

    def __init__(self, index: RunIndex, *, tried: float = math.inf) -> None:
        self._index = index
        self._tried = tried
        self._is_new_event = False
        self.registered: str | None = None
        """What became of the winner in the registry of models, in words."""
        writes: list[Callable[..., None]] = [
            *(self._open, self._start, self._report, self._end, self._upload, self._drop),
            *(self._note, self._register, self._close, self._stop),
        ]
        self._writes = {write.__name__.removeprefix("_"): write for write in writes}
        """By the kind of event."""

    def send(self, event: Event) -> None:
        """Write one event; raises what MLflow raises."""
        self._is_new_event = event.sequence > self._tried
        self._tried = max(self._tried, event.sequence)
        self._index.time = event.time
        try:
            self._writes[event.kind](event.time, **event.arguments)
        except mlflow().MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # the next attempt looks again
                self._index.forget()
            raise

    @property
    def _client(self) -> Any:
        return self._index.client

    @property
    def _parent_run_id(self) -> str:
        return self._index.parent_run_id

    def _open(
        self,
        time: int,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        space_path: str,
        datasets: Sequence[Mapping[str, str]] = (),  # none in events that an older version wrote
        **_: object,  # `ended`, of events that an older version wrote
    ) -> None:
        self._index.forget()
        parent = self._index.parent()
        if parent.info.status != "RUNNING":
            self._client.update_run(self._parent_run_id, status="RUNNING")
        self._end_running()
        tags = {**tags, NOTE: self._said("is running")}
        self._log(self._parent_run_id, params=entities.missing_params(params, parent), tags=tags)
        self._log_file(space_path)
        self._save_view(time)
        known = {found.dataset.digest for found in parent.inputs.dataset_inputs}
        if new := [
            entities.dataset_input(found) for found in datasets if found["digest"] not in known
        ]:
            self._client.log_inputs(self._parent_run_id, new)

    def _save_view(self, time: int, shown: Sequence[float] | None = None) -> None:
        """Let MLflow's page of runs show the trials; what to show is known at the end."""
        params = self._client.get_run(self._parent_run_id).data.params
        name = f"{self._index.run_name}: the best first"
        view = saved_view(name, self._parent_run_id, time, objective_of(params), shown)
        tag = f"{VIEW_TAG}{sweep_id(self._index.output_dir)}"
        self._client.set_experiment_tag(self._index.experiment_id, tag, view)

    def _start(
        self,
        time: int,
        number: int,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
    ) -> None:
        index = self._index
        is_new = self._is_new_event and index.parent_is_new and number not in index
        run = None if is_new else index.find_child(number)
        if run is None:
            child = index.create_child(number, name, time, tags)
            self._log(child.run_id, params=params)
            return
        run_id = run.info.run_id
        if run.info.status != "RUNNING":
            self._client.update_run(run_id, status="RUNNING")
        for tag in {"outcome", "outcome_reason", NOTE} & run.data.tags.keys():
            self._client.delete_tag(run_id, tag)
        # After a crash it is told once more, by a process that does not know where it ran.
        tags = {k: v for k, v in tags.items() if v != UNKNOWN or k not in run.data.tags}
        self._log(run_id, params=entities.missing_params(params, run), tags=tags)
        index.remember(number, run).may_end = True

    def _report(
        self,
        time: int,
        number: int,
        step: int,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        is_base: bool,
        train_losses: Sequence[float] = (),  # not in events that an older version wrote
    ) -> None:
        """Log an evaluation, and the train loss of each step since the one before.

        All in one request (of up to 1,000 steps): the losses of steps cost none of their own.
        """
        child = self._index.child(number)
        eval_loss = metrics["eval_loss"]
        if is_base:
            parent = self._client.get_run(self._parent_run_id)
            changed = entities.changed_metrics({"base_eval_loss": eval_loss}, parent, time)
            self._log(self._parent_run_id, metrics=changed)
        if step in child.steps:
            return
        best = child.best
        if not is_base and math.isfinite(eval_loss):
            best = min(best, eval_loss)
        if math.isfinite(best):
            metrics = {**metrics, "eval_loss_best": best}
        first = step - len(train_losses) + 1
        of_steps = [
            metric
            for at, loss in enumerate(train_losses, start=first)
            for metric in entities.run_metrics({"train_loss": loss}, time, at)
        ]
        # The evaluation last: where it has arrived, so have they, however often this was cut off.
        self._log(child.run_id, [*of_steps, *entities.run_metrics(metrics, time, step)], tags=tags)
        child.best = best
        child.steps.add(step)

    def _end(
        self,
        time: int,
        number: int,
        status: str,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        seconds: float = 0.0,  # not in events that an older version wrote
    ) -> None:
        """End a trial's run; it has lasted as long as the trial ran, without pauses.

        Args:
            seconds: Of the trial, over all its parts; 0: not known, as its process was lost.
        """
        child = self._index.child(number)
        run = None if self._is_new_event else self._client.get_run(child.run_id)
        if not (child.may_end if run is None else run_may_end(run)):
            return  # it has ended before, as far as this attempt goes
        new_params = params if run is None else entities.missing_params(params, run)
        self._log(child.run_id, entities.changed_metrics(metrics, run, time), new_params, tags)
        ended = child.started + round(1000 * seconds) if seconds else time
        self._client.set_terminated(child.run_id, status, end_time=ended)
        child.may_end = tags["outcome"] == "paused"

    def _upload(self, time: int, number: int, name: str) -> None:
        path = layout.trial_dir(self._index.output_dir, number) / name
        if not path.exists():
            return
        child = self._index.child(number)
        if path.is_dir():
            child.may_have_adapter = True
            self._artifacts(child).log_artifacts(str(path), name)
        else:
            self._artifacts(child).log_artifact(str(path))

    def _drop(self, time: int, number: int) -> None:
        with suppress(NoRunError):
            child = self._index.child(number)
            if (
                child.may_have_adapter
                and self._client.list_artifacts(child.run_id, ADAPTER)
                and not is_registered(self._client, child.run_id)
            ):
                self._artifacts(child).delete_artifacts(ADAPTER)
            child.may_have_adapter = False

    def _artifacts(self, run: Child | Any) -> Any:
        registry = mlflow().store.artifact.artifact_repository_registry
        return registry.get_artifact_repository(run.artifact_uri, tracking_uri=self._index.uri)

    def _note(self, time: int, text: str) -> None:
        """Write the parent run's description, while the sweep runs."""
        self._log(self._parent_run_id, tags={NOTE: with_addresses(text, self._index)})

    def _register(
        self, time: int, name: str, number: int, tags: Mapping[str, str], description: str
    ) -> None:
        """Register the winner's adapter, which has arrived: uploads come before."""
        run_id = self._index.child(number).run_id
        text = with_addresses(description, self._index)
        self.registered = register(self._client, name, run_id, tags, text)
        self._log(self._parent_run_id, tags={"registered_model": self.registered})

    def _close(
        self,
        time: int,
        status: str,
        winner: Mapping[str, Any] | None,
        summary: str,
        report_path: str | None = None,  # these not in events that an older version wrote
        plot_paths: Sequence[str] = (),
        shown: Sequence[float] | None = None,
        answers_path: str | None = None,
    ) -> None:
        self._end_running()
        if shown is not None:
            self._save_view(time, shown)
        for path in plot_paths:
            self._log_file(path, layout.PLOTS)
        tags: dict[str, object] = {NOTE: with_addresses(summary, self._index)}
        metrics: list[Any] = []
        if winner is not None:
            parent = self._client.get_run(self._parent_run_id)
            best = {"best_eval_loss": winner["eval_loss"]}
            if winner.get("base_eval_loss") is not None:  # of the same rows, so that they compare
                best["base_eval_loss"] = winner["base_eval_loss"]
            if "objective" in winner:  # a metric
                best[f"best_{winner['objective']}"] = winner["value"]
            metrics = entities.changed_metrics(best, parent, time)
            tags |= {f"winner_{key}": value for key, value in winner.items()}
            run = self._index.find_child(int(winner["trial"]))
            if run is not None:
                tags["winner_run_id"] = run.info.run_id
        self._log(self._parent_run_id, metrics, tags=tags)
        if report_path is not None:
            self._log_file(report_path)
            self._log_table(answers_path)
        self._client.set_terminated(self._parent_run_id, status, end_time=time)

    def _log_file(self, path: str, folder: str | None = None) -> None:
        """Make a file an artifact of the parent run, if it is there.

        Args:
            path: From the sweep's folder on; whole in events that an older version wrote.
        """
        file = self._index.output_dir / path
        if file.is_file():
            self._client.log_artifact(self._parent_run_id, str(file.resolve()), folder)

    def _log_table(self, path: str | None) -> None:
        """Make a file a table of the parent run; None: none is left of an earlier time."""
        parent = self._client.get_run(self._parent_run_id)
        if path is not None:
            self._log_file(path)
            about = json.dumps([{"path": path, "type": "table"}])
            self._log(self._parent_run_id, tags={_TABLES: about})
        elif _TABLES in parent.data.tags:
            self._client.delete_tag(self._parent_run_id, _TABLES)
            self._artifacts(parent.info).delete_artifacts(layout.ANSWERS_TABLE)

    def _stop(self, time: int) -> None:
        """No process runs the sweep: nothing may look as if one did."""
        self._end_running()
        if self._client.get_run(self._parent_run_id).info.status == "RUNNING":
            self._log(self._parent_run_id, tags={NOTE: self._said("was broken off")})
            self._client.set_terminated(self._parent_run_id, "KILLED", end_time=time)

    def _said(self, state: str) -> str:
        return f"**{self._index.run_name}** {state}. Its folder: `{self._index.output_dir}`."

    def _end_running(self) -> None:
        """End the runs of trials that do not run: the process that ran them was killed."""
        reason = "The sweep stopped before this trial's end was written."
        said = ending(TrialResult(outcome="interrupted", reason=reason), BY_EVAL_LOSS)
        tags = {"outcome": "interrupted", "outcome_reason": reason, NOTE: said}
        for run in self._index.running_children():
            run_id = run.info.run_id
            self._log(run_id, tags=tags)
            heard = [m.timestamp for m in self._client.get_metric_history(run_id, "eval_loss")]
            ended = max(heard, default=run.info.start_time)
            self._client.set_terminated(run_id, run_data.STATUS["interrupted"], end_time=ended)

    def sample_system(self, time: int) -> None:
        """Log this machine's load as the parent run's system metrics."""
        parent = self._index.parent()
        step = (time - parent.info.start_time) // 1000  # seconds: goes on when a sweep is resumed
        self._log(self._parent_run_id, entities.run_metrics(system_load(), time, step))

    def _log(
        self,
        run_id: str,
        metrics: Sequence[Any] = (),
        params: Mapping[str, object] = MappingProxyType({}),
        tags: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        """Log all of it in one request, where MLflow takes as much in one."""
        known, said = entities.run_params(params), entities.run_tags(tags)
        self._client.log_batch(run_id, metrics, known, said, synchronous=True)


def system_load() -> dict[str, float]:
    """Measure this machine, by the names that MLflow's page has for its load.

    Not with its SystemMetricsMonitor: that one writes from a second thread, gives up at the first
    error, and its end waits for the server.
    """
    load: dict[str, float] = {}
    for monitor in _monitors():
        monitor.collect_metrics()
        load |= {f"system/{key}": value for key, value in monitor.aggregate_metrics().items()}
        monitor.clear_metrics()
    return load


@cache
def _monitors() -> list[Any]:
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
