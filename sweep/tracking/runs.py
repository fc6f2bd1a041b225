"""A sweep's runs in MLflow: a parent run for the sweep, a child run for each trial."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from sweep.errors import TrackingError
from sweep.folder import layout
from sweep.text.secrets import without_secrets
from sweep.tracking import fast_http, journal, run_data
from sweep.tracking.client import NoRunError, client_of
from sweep.tracking.entities import (
    changed_metrics,
    dataset_input,
    missing_params,
    param_text,
    run_tags,
    source_tags,
)
from sweep.tracking.journal import Event
from sweep.tracking.location import sweep_id
from sweep.tracking.registry import is_registered, register
from sweep.tracking.run_index import Child, run_may_end
from sweep.tracking.saved_view import MENU, address, saved_view
from sweep.tracking.saved_view import TAG as VIEW_TAG
from sweep.tracking.system_metrics import system_monitors
from trials.trial_folder import ADAPTER
from trials.whole_file import write_whole

fast_http.install()


LAST = ("close", "stop")
"""Kinds of events after which nothing is left RUNNING."""


class Runs:
    """A sweep's runs on one server, which is asked only when it must be.

    Each event may come twice, and changes nothing the second time: the process that sent it first
    may have died before it knew. So the server is asked what it has, unless an event is certain to
    be new: of a thousand trials each question costs.

    Args:
        tried: Sequence of the latest event that may have been sent before; infinite: any may.
        run_name: Of the parent run; None: `name`.
    """

    def __init__(
        self,
        uri: str,
        name: str,
        output_dir: Path,
        artifacts_dir: Path | None,
        *,
        tried: float = math.inf,
        run_name: str | None = None,
    ) -> None:
        self.uri = uri
        self._tried = tried
        self._is_new_event = False
        self._parent_is_new = False
        self._name, self._run_name = name, run_name or name
        self._output_dir = output_dir
        self._artifacts_dir = artifacts_dir
        self._experiment_id: str | None = None
        self._parent: Any = None
        self._children: dict[int, Child] = {}
        self.registered: str | None = None
        """What became of the winner in the registry of models, in words."""
        for logger in ("mlflow", "alembic"):  # every failed attempt would be a traceback
            logging.getLogger(logger).setLevel(logging.CRITICAL)
        self._writes: dict[str, Callable[..., None]] = {
            "open": self._open,
            "start": self._start,
            "report": self._report,
            "end": self._end,
            "upload": self._upload,
            "drop": self._drop,
            "note": self._note,
            "register": self._register,
            "close": self._close,
            "stop": self._stop,
        }

    def send(self, event: Event) -> None:
        """Write one event; raises what MLflow raises."""
        self._is_new_event = event.sequence > self._tried
        self._tried = max(self._tried, event.sequence)
        try:
            self._writes[event.kind](event.time, **event.arguments)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # the next attempt looks again
                self._forget()
            raise

    @cached_property
    def _monitors(self) -> list[Any]:
        return system_monitors()

    @cached_property
    def _client(self) -> MlflowClient:
        return client_of(self.uri)

    @property
    def experiment_id(self) -> str:
        """Looked up, or created, when it is first needed; mlflow.json tells others."""
        if self._experiment_id is None:
            self._experiment_id = self.find_experiment() or self._create_experiment()
            write_whole(
                self._output_dir / layout.MLFLOW,
                json.dumps(
                    {"uri": without_secrets(self.uri), "experiment_id": self._experiment_id}
                ),
            )
        return self._experiment_id

    @property
    def parent_run_id(self) -> str:
        """The sweep's own run: looked up, or created, when it is first needed."""
        return str(self._find_or_create_parent(journal.now()).info.run_id)

    def find_experiment(self) -> str | None:
        """Return the experiment's id; None when there is none of this name.

        Raises:
            TrackingError: It has been deleted.
        """
        found = self._client.get_experiment_by_name(self._name)
        if found is None:
            return None
        if found.lifecycle_stage == "deleted":
            raise TrackingError(
                f"A sweep's name must not be that of a deleted MLflow experiment, as "
                f"{self._name!r} is. Give the sweep another name, or restore the experiment: "
                f"mlflow experiments restore --experiment-id {found.experiment_id}"
            )
        return str(found.experiment_id)

    def _create_experiment(self) -> str:
        location = None if self._artifacts_dir is None else self._artifacts_dir.as_uri()
        # Without the tag MLflow's UI takes it for an experiment with prompts and traces.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return str(self._client.create_experiment(self._name, location, kind))

    def _find_or_create_parent(self, time: int) -> Any:
        if self._parent is None:
            tags = {"sweep.role": "parent", "sweep.id": sweep_id(self._output_dir)}
            self._parent = self._find_run(tags)
            if self._parent is None:
                self._parent = self._create_run(self._run_name, time, tags)
                self._parent_is_new = True
        return self._parent

    def _find_child(self, number: int) -> Any:
        return self._find_run(self._child_tags(number))

    def _child_tags(self, number: int) -> dict[str, str]:
        return {"mlflow.parentRunId": self.parent_run_id, "trial_number": str(number)}

    def _create_run(self, name: str, time: int, tags: Mapping[str, str]) -> Any:
        return self._client.create_run(self.experiment_id, time, {**source_tags(), **tags}, name)

    def _find_run(self, tags: Mapping[str, str]) -> Any:
        """Return the run with these tags; None when there is none.

        A create_run whose answer came too late was made again: the run that stayed empty goes.
        """
        found = self._search(" and ".join(f"tags.`{key}` = '{v}'" for key, v in tags.items()))
        found.sort(key=lambda run: len(run.data.metrics) + len(run.data.params), reverse=True)
        for double in found[1:]:
            self._client.delete_run(double.info.run_id)
        return found[0] if found else None

    def _search(self, wanted: str) -> list[Any]:
        return list(self._client.search_runs([self.experiment_id], wanted))

    def _forget(self) -> None:
        self._experiment_id = self._parent = None
        self._children.clear()

    def _child(self, number: int) -> Child:
        if number not in self._children:
            run = self._find_child(number)
            if run is None:
                raise NoRunError(f"Trial {number} has no run in MLflow.")
            self._remember(number, run)
        return self._children[number]

    def _remember(self, number: int, run: Any) -> None:
        history = self._client.get_metric_history(run.info.run_id, "eval_loss")
        losses = [m.value for m in history if m.step > 0 and math.isfinite(m.value)]
        self._children[number] = Child(
            run.info.run_id,
            run.info.artifact_uri,
            steps={m.step for m in history},
            best=min(losses, default=math.inf),
            may_end=run_may_end(run),
            may_have_adapter=True,
        )

    def _open(
        self,
        time: int,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        space_path: str,
        datasets: Sequence[Mapping[str, str]] = (),  # none in events that an older version wrote
        **_: object,  # `ended`, of events that an older version wrote
    ) -> None:
        self._forget()
        parent = self._find_or_create_parent(time)
        if parent.info.status != "RUNNING":
            self._client.update_run(self.parent_run_id, status="RUNNING")
        self._end_running(time)
        note = f"**{self._run_name}** is running. Its folder: `{self._output_dir}`."
        tags = {**tags, "mlflow.note.content": note}
        self._log(self.parent_run_id, params=missing_params(params, parent), tags=tags)
        if Path(space_path).is_file():
            self._client.log_artifact(self.parent_run_id, space_path)
        self._save_view(time)
        known = {found.dataset.digest for found in parent.inputs.dataset_inputs}
        if new := [
            dataset_input(dataset) for dataset in datasets if dataset["digest"] not in known
        ]:
            self._client.log_inputs(self.parent_run_id, new)

    def _save_view(self, time: int, shown: Sequence[float] | None = None) -> None:
        """Let MLflow's page of runs show the trials; what to show is known at the end."""
        params = self._client.get_run(self.parent_run_id).data.params
        name = params.get("objective", "eval_loss").rpartition(":")[2]
        view = saved_view(
            f"{self._run_name}: the best first",
            self.parent_run_id,
            time,
            shown,
            name,
            is_lower_better=params.get("objective.direction") != "maximize",
        )
        tag = f"{VIEW_TAG}{sweep_id(self._output_dir)}"
        self._client.set_experiment_tag(self.experiment_id, tag, view)

    def _start(
        self,
        time: int,
        number: int,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
    ) -> None:
        may_be_there = not (self._is_new_event and self._parent_is_new) or number in self._children
        run = self._find_child(number) if may_be_there else None
        if run is None:
            run = self._create_run(name, time, {**self._child_tags(number), **tags})
            self._log(run.info.run_id, params=params)
            self._children[number] = Child(run.info.run_id, run.info.artifact_uri)
            return
        run_id = run.info.run_id
        if run.info.status != "RUNNING":
            self._client.update_run(run_id, status="RUNNING")
        for tag in {"outcome", "outcome_reason"} & run.data.tags.keys():
            self._client.delete_tag(run_id, tag)
        self._log(run_id, params=missing_params(params, run), tags=tags)
        self._remember(number, run)
        self._children[number].may_end = True

    def _report(
        self,
        time: int,
        number: int,
        step: int,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        is_base: bool,
    ) -> None:
        child = self._child(number)
        eval_loss = metrics["eval_loss"]
        if is_base:
            parent = self._client.get_run(self.parent_run_id)
            changed = changed_metrics({"base_eval_loss": eval_loss}, parent, time)
            self._log(self.parent_run_id, metrics=changed)
        if step in child.steps:
            return
        best = child.best
        if not is_base and math.isfinite(eval_loss):
            best = min(best, eval_loss)
        if math.isfinite(best):
            metrics = {**metrics, "eval_loss_best": best}
        values = [Metric(key, value, time, step) for key, value in metrics.items()]
        self._log(child.run_id, metrics=values, tags=tags)
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
    ) -> None:
        child = self._child(number)
        run = None if self._is_new_event else self._client.get_run(child.run_id)
        if not (child.may_end if run is None else run_may_end(run)):
            return  # it has ended before, as far as this attempt goes
        new_params = params if run is None else missing_params(params, run)
        self._log(child.run_id, changed_metrics(metrics, run, time), new_params, tags)
        self._client.set_terminated(child.run_id, status, end_time=time)
        child.may_end = tags["outcome"] == "paused"

    def _upload(self, time: int, number: int, name: str) -> None:
        path = layout.trial_dir(self._output_dir, number) / name
        if not path.exists():
            return
        child = self._child(number)
        artifacts = get_artifact_repository(child.artifact_uri, tracking_uri=self.uri)
        if path.is_dir():
            child.may_have_adapter = True
            artifacts.log_artifacts(str(path), name)
        else:
            artifacts.log_artifact(str(path))

    def _drop(self, time: int, number: int) -> None:
        with suppress(NoRunError):
            child = self._child(number)
            if (
                child.may_have_adapter
                and self._client.list_artifacts(child.run_id, ADAPTER)
                and not is_registered(self._client, child.run_id)
            ):
                artifacts = get_artifact_repository(child.artifact_uri, tracking_uri=self.uri)
                artifacts.delete_artifacts(ADAPTER)
            child.may_have_adapter = False

    def _note(self, time: int, text: str) -> None:
        """Write the parent run's description, while the sweep runs."""
        self._log(self.parent_run_id, tags={"mlflow.note.content": self._with_links(text)})

    def _with_links(self, text: str) -> str:
        """Put addresses in place of `(#trial-17)`, `(#trials)`, `(#curves)` and `(plots/…)`."""
        view = sweep_id(self._output_dir)

        def address_of(found: re.Match[str]) -> str:
            target = found[1]
            if target == "trials":
                return f"({address(self.experiment_id, view)})"
            if target == "curves":
                return f"({address(self.experiment_id, view, charts=True)})"
            try:
                run_id = self._child(int(target.removeprefix("trial-"))).run_id
            except NoRunError:
                return str(found[0])
            return f"(#/experiments/{self.experiment_id}/runs/{run_id}?{MENU})"

        text = re.sub(r"\(#(trial-\d+|trials|curves)\)", address_of, text)
        artifact = f"get-artifact?run_uuid={self.parent_run_id}&path=plots/"
        return text.replace("(plots/", f"({artifact}")

    def _register(
        self, time: int, name: str, number: int, tags: Mapping[str, str], description: str
    ) -> None:
        """Register the winner's adapter, which has arrived: uploads come before."""
        run_id = self._child(number).run_id
        text = self._with_links(description)
        self.registered = register(self._client, name, run_id, tags, text)
        self._log(self.parent_run_id, tags={"registered_model": self.registered})

    def _close(
        self,
        time: int,
        status: str,
        winner: Mapping[str, Any] | None,
        summary: str,
        report_path: str | None = None,  # these not in events that an older version wrote
        plot_paths: Sequence[str] = (),
        shown: Sequence[float] | None = None,
    ) -> None:
        self._end_running(time)
        if shown is not None:
            self._save_view(time, shown)
        for path in plot_paths:
            if Path(path).is_file():
                self._client.log_artifact(self.parent_run_id, path, "plots")
        tags: dict[str, object] = {"mlflow.note.content": self._with_links(summary)}
        metrics: list[Metric] = []
        if winner is not None:
            parent = self._client.get_run(self.parent_run_id)
            best = {"best_eval_loss": winner["eval_loss"]}
            if "objective" in winner:  # a metric
                best[f"best_{winner['objective']}"] = winner["value"]
            metrics = changed_metrics(best, parent, time)
            tags |= {f"winner_{key}": value for key, value in winner.items()}
            run = self._find_child(int(winner["trial"]))
            if run is not None:
                tags["winner_run_id"] = run.info.run_id
        self._log(self.parent_run_id, metrics, tags=tags)
        if report_path is not None and Path(report_path).is_file():
            self._client.log_artifact(self.parent_run_id, report_path)
        self._client.set_terminated(self.parent_run_id, status, end_time=time)

    def _stop(self, time: int) -> None:
        """No process runs the sweep: nothing may look as if one did."""
        self._end_running(time)
        if self._client.get_run(self.parent_run_id).info.status == "RUNNING":
            note = f"**{self._run_name}** was broken off. Its folder: `{self._output_dir}`."
            self._log(self.parent_run_id, tags={"mlflow.note.content": note})
            self._client.set_terminated(self.parent_run_id, "KILLED", end_time=time)

    def _end_running(self, time: int) -> None:
        """End the runs of trials that do not run: the process that ran them was killed."""
        ours = f"tags.`mlflow.parentRunId` = '{self.parent_run_id}'"
        reason = "The sweep stopped before this trial's end was written."
        for run in self._search(f"{ours} and status = 'RUNNING'"):
            tags = {"outcome": "interrupted", "outcome_reason": reason}
            self._log(run.info.run_id, tags=tags)
            status = run_data.STATUS["interrupted"]
            self._client.set_terminated(run.info.run_id, status, end_time=time)

    def sample_system(self) -> None:
        """Log this machine's load as the parent run's system metrics."""
        parent, time = self._find_or_create_parent(journal.now()), journal.now()
        step = (time - parent.info.start_time) // 1000  # seconds: goes on when a sweep is resumed
        metrics = []
        for monitor in self._monitors:
            monitor.collect_metrics()
            values = monitor.aggregate_metrics()
            metrics += [Metric(f"system/{key}", value, time, step) for key, value in values.items()]
            monitor.clear_metrics()
        self._client.log_batch(self.parent_run_id, metrics=metrics, synchronous=True)

    def _log(
        self,
        run_id: str,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, object] = MappingProxyType({}),
        tags: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        """Log all of it in one request, where MLflow takes as much in one."""
        known = [
            Param(key, param_text(value)) for key, value in params.items() if value is not None
        ]
        self._client.log_batch(run_id, metrics, known, run_tags(tags), synchronous=True)
