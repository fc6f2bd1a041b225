"""Which MLflow run belongs to which trial."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sweep.errors import TrackingError
from sweep.folder import layout
from sweep.storage.sqlite import file_of
from sweep.tracking.client import NoRunError, client_of
from sweep.tracking.entities import source_tags
from sweep.tracking.location import sweep_id
from sweep.tracking.sqlite_tables import follow_artifacts
from trials.foreign_text import without_secrets
from trials.whole_file import write_whole


@dataclass(slots=True)
class Child:
    """What is remembered of a trial's run."""

    run_id: str
    artifact_uri: str
    started: int
    """Milliseconds since 1970."""
    steps: set[int] = field(default_factory=set)
    """Optimizer steps whose evaluation is logged already."""
    best: float = math.inf
    """The lowest eval loss after step 0; infinite before the first."""
    may_end: bool = True
    """It runs, or is paused: an end is yet to come."""
    may_have_adapter: bool = False


class RunIndex:
    """The experiment, the parent run and the trials' runs of one sweep on one server.

    Each is looked up, or created, when it is first needed.

    Args:
        artifacts_dir: Where a new experiment keeps artifacts; None leaves it to the server.
        run_name: Of the parent run; None: `name`.
    """

    def __init__(
        self,
        uri: str,
        name: str,
        output_dir: Path,
        artifacts_dir: Path | None,
        run_name: str | None = None,
    ) -> None:
        self.uri, self.output_dir, self.run_name = uri, output_dir, run_name or name
        self.parent_is_new = False
        """Whether this process has created the parent run: then no trial has a run before its
        first event."""
        self.time = 0
        """Of the latest event, as `Event.time`."""
        self._name, self._artifacts_dir = name, artifacts_dir
        self.forget()

    def forget(self) -> None:
        """Look everything up again when it is next needed."""
        self._experiment_id: str | None = None
        self._parent: Any = None
        self._children: dict[int, Child] = {}

    @cached_property
    def client(self) -> Any:
        """An `MlflowClient`."""
        client = client_of(self.uri)
        database = file_of(self.uri)
        if database is not None and self._artifacts_dir is not None:
            follow_artifacts(database, self._name, self._artifacts_dir)
        return client

    @property
    def experiment_id(self) -> str:
        """Of the experiment; mlflow.json tells others."""
        if self._experiment_id is None:
            self._experiment_id = self.find_experiment() or self._create_experiment()
            about = {
                "uri": without_secrets(self.uri),
                "experiment_id": self._experiment_id,
                "experiment": self._name,
            }
            write_whole(self.output_dir / layout.MLFLOW, json.dumps(about))
        return self._experiment_id

    def find_experiment(self) -> str | None:
        """Return the experiment's id; None when there is none of this name.

        Raises:
            TrackingError: It has been deleted.
        """
        found = self.client.get_experiment_by_name(self._name)
        if found is None:
            return None
        if found.lifecycle_stage == "deleted":
            raise TrackingError(
                f"A sweep must not be in a deleted MLflow experiment, as {self._name!r} is. Give "
                f"the sweep (or MLFLOW_EXPERIMENT_NAME) another name, or restore the experiment: "
                f"mlflow experiments restore --experiment-id {found.experiment_id}"
            )
        return str(found.experiment_id)

    def parent(self) -> Any:
        """Return the sweep's own run."""
        if self._parent is None:
            tags = {"sweep.role": "parent", "sweep.id": sweep_id(self.output_dir)}
            self._parent = self._find_run(tags)
            if self._parent is None:
                self._parent = self._create_run(self.run_name, self.time, tags)
                self.parent_is_new = True
        return self._parent

    @property
    def parent_run_id(self) -> str:
        return str(self.parent().info.run_id)

    def child(self, number: int) -> Child:
        """Return what is known of the run of a trial; raises `NoRunError`."""
        if number not in self._children:
            run = self.find_child(number)
            if run is None:
                raise NoRunError(f"Trial {number} has no run in MLflow.")
            self.remember(number, run)
        return self._children[number]

    def find_child(self, number: int) -> Any:
        """Ask MLflow for the run of a trial; None when there is none."""
        return self._find_run(self._child_tags(number))

    def create_child(self, number: int, name: str, time: int, tags: Mapping[str, str]) -> Child:
        run = self._create_run(name, time, {**self._child_tags(number), **tags})
        self._children[number] = Child(run.info.run_id, run.info.artifact_uri, time)
        return self._children[number]

    def remember(self, number: int, run: Any) -> Child:
        """Read what the run of a trial has already."""
        history = self.client.get_metric_history(run.info.run_id, "eval_loss")
        losses = [m.value for m in history if m.step > 0 and math.isfinite(m.value)]
        self._children[number] = Child(
            run.info.run_id,
            run.info.artifact_uri,
            run.info.start_time,
            steps={m.step for m in history},
            best=min(losses, default=math.inf),
            may_end=run_may_end(run),
            may_have_adapter=True,
        )
        return self._children[number]

    def __contains__(self, number: int) -> bool:
        return number in self._children

    def running_children(self) -> list[Any]:
        """Ask MLflow for the trials' runs that look as if they ran."""
        ours = f"tags.`mlflow.parentRunId` = '{self.parent_run_id}'"
        return self._search(f"{ours} and status = 'RUNNING'")

    def _child_tags(self, number: int) -> dict[str, str]:
        return {"mlflow.parentRunId": self.parent_run_id, "trial_number": str(number)}

    def _create_experiment(self) -> str:
        location = None if self._artifacts_dir is None else self._artifacts_dir.as_uri()
        # Without the tag MLflow's UI takes it for an experiment with prompts and traces.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return str(self.client.create_experiment(self._name, location, kind))

    def _create_run(self, name: str, time: int, tags: Mapping[str, str]) -> Any:
        return self.client.create_run(self.experiment_id, time, {**source_tags(), **tags}, name)

    def _find_run(self, tags: Mapping[str, str]) -> Any:
        """Return the run with these tags; None when there is none.

        A create_run whose answer came too late was made again: the run that stayed empty goes.
        """
        found = self._search(" and ".join(f"tags.`{key}` = '{v}'" for key, v in tags.items()))
        found.sort(key=lambda run: len(run.data.metrics) + len(run.data.params), reverse=True)
        for double in found[1:]:
            self.client.delete_run(double.info.run_id)
        return found[0] if found else None

    def _search(self, wanted: str) -> list[Any]:
        return list(self.client.search_runs([self.experiment_id], wanted))


def run_may_end(run: Any) -> bool:
    return bool(run.info.status == "RUNNING" or run.data.tags.get("outcome") == "paused")
