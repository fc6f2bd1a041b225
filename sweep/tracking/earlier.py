"""What MLflow knows of an earlier sweep: its best trials."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from sweep.errors import TrackingError
from sweep.space.hyperparameters import HYPERPARAMETERS, Value
from sweep.storage.attributes import COUNTS
from sweep.storage.sqlite import file_of
from sweep.study.earlier import Earlier
from sweep.study.ended import StoredTrial, place
from sweep.tracking.client import answering_soon, client_of, not_there
from sweep.tracking.destination import EXPERIMENT, variable
from sweep.tracking.location import checked, mend
from sweep.tracking.run_data import EXACT
from trials.config import Objective, Outcome
from trials.foreign_text import in_a_line, without_secrets


def best_in_mlflow(uri: str, name: str, n_trials: int) -> Earlier | None:
    """Return the best trials of a sweep; None: there is none of that name.

    Where several sweeps had that name, the latest of them is meant.

    Raises:
        TrackingError: MLflow cannot be used.
    """
    with _asked(uri) as client:
        if client is None:
            return None
        parent = _parent(client, name)
        if parent is None:
            return None
        objective = objective_of(parent.data.params)
        return Earlier(name, objective, _best(client, parent, objective, n_trials))


def _parent(client: Any, name: str) -> Any:
    """Return the run of a name's latest sweep: of its own experiment, else the variable's."""
    by_name = f" AND attributes.run_name = '{name}'"
    for experiment, wanted in (name, ""), (variable(EXPERIMENT), by_name):
        found = experiment and client.get_experiment_by_name(experiment)
        if not found or found.lifecycle_stage == "deleted":
            continue
        is_parent = f"tags.`sweep.role` = 'parent'{wanted}"
        order = ["attributes.start_time DESC"]
        for run in client.search_runs([found.experiment_id], is_parent, order_by=order):
            # `sweep confirm` has its runs in the same experiment: other seeds of the same trials.
            if "sweep.confirms" not in run.data.tags:
                return run
    return None


def names_in_mlflow(uri: str) -> list[str]:
    """Return the names of all experiments.

    Raises:
        TrackingError: MLflow cannot be used.
    """
    with _asked(uri) as client:
        return [] if client is None else [found.name for found in client.search_experiments()]


@contextmanager
def _asked(uri: str) -> Iterator[Any]:
    """Give a client, which answers within 10 seconds; None for a database that is not there."""
    file = file_of(checked(uri))
    there = file is None or file.exists()
    try:
        with answering_soon():
            yield client_of(uri) if there else None
    except not_there() as error:
        cause = in_a_line(error)
        raise TrackingError(
            f"MLflow at {without_secrets(uri)} cannot be used: {cause} {mend(uri, cause)}"
        ) from None  # the cause's own traceback may hold credentials


def objective_of(params: Mapping[str, str]) -> Objective:
    """What trials are judged by, of the parameters of a parent run."""
    name = params.get("objective", "eval_loss").rpartition(":")[2]
    is_rising = params.get("objective.direction") == "maximize"
    return Objective(name=name, direction="maximize" if is_rising else "minimize")


def _best(client: Any, parent: Any, objective: Objective, n_trials: int) -> list[StoredTrial]:
    metric = f"{objective.name}_best"
    order = "ASC" if objective.direction == "minimize" else "DESC"
    found: list[StoredTrial] = []
    for outcome in sorted(COUNTS):
        wanted = {"mlflow.parentRunId": parent.info.run_id, "outcome": outcome}
        runs = client.search_runs(
            [parent.info.experiment_id],
            " and ".join(f"tags.`{key}` = '{value}'" for key, value in wanted.items()),
            max_results=n_trials,
            order_by=[f"metrics.`{metric}` {order}"],
        )
        found += [
            _trial(run, outcome, value)
            for run in runs
            if math.isfinite(value := run.data.metrics.get(metric, math.nan))
        ]
    return sorted(found, key=partial(place, objective))[:n_trials]


def _trial(run: Any, outcome: Outcome, value: float) -> StoredTrial:
    params = run.data.params
    values = {name: _value(name, params[name]) for name in HYPERPARAMETERS if name in params}
    with suppress(ValueError, KeyError):  # an older version had them exact in the parameters
        exact = json.loads(run.data.tags[EXACT])
        values |= {name: exact[name] for name in values}
    return StoredTrial(int(run.data.tags["trial_number"]), values, outcome, value=value)


def _value(name: str, text: str) -> Value:
    """A parameter as it was before MLflow made it text."""
    kind = HYPERPARAMETERS[name].kind
    if kind is bool:
        return text == "True"
    number: Value = kind(text)
    return number
