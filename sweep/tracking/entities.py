"""Our values as MLflow's tags, parameters, metrics and data sets."""

import getpass
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from sweep.text.numbers import digits
from sweep.tracking.client import mlflow

_LONGEST_TAG = 5000  # characters; MLflow 3.17 takes 8000, older servers less


def dataset_input(dataset: Mapping[str, str]) -> Any:
    entities = mlflow().entities
    context = [entities.InputTag("mlflow.data.context", dataset["context"])]
    keys = ("name", "digest", "source_type", "source", "profile")
    return entities.DatasetInput(entities.Dataset(**{key: dataset[key] for key in keys}), context)


def missing_params(params: Mapping[str, object], run: Any) -> dict[str, object]:
    """Those that the run does not have: a parameter stays as it was logged first."""
    return {key: value for key, value in params.items() if key not in run.data.params}


def run_params(params: Mapping[str, object]) -> list[Any]:
    """Those that are known."""
    return [
        mlflow().entities.Param(key, _text(value))
        for key, value in params.items()
        if value is not None
    ]


def _text(value: object) -> str:
    return digits(value) if isinstance(value, float) else str(value)


def run_metrics(metrics: Mapping[str, float], time: int, step: int = 0) -> list[Any]:
    return [mlflow().entities.Metric(key, value, time, step) for key, value in metrics.items()]


def changed_metrics(metrics: Mapping[str, float], run: Any, time: int) -> list[Any]:
    """Metrics without a step that the run does not have with these very values; None: it is new."""
    known = {} if run is None else run.data.metrics
    return run_metrics({key: v for key, v in metrics.items() if known.get(key) != v}, time)


def run_tags(tags: Mapping[str, object]) -> list[Any]:
    return [mlflow().entities.RunTag(key, _text(v)[:_LONGEST_TAG]) for key, v in tags.items()]


def source_tags() -> dict[str, str]:
    tags = {"mlflow.source.name": "sweep", "mlflow.source.type": "LOCAL"}
    with suppress(KeyError, OSError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    return tags
