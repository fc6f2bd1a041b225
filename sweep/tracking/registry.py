"""A sweep's winner as a version of a registered model in MLflow, with the alias `champion`."""

from collections.abc import Mapping
from typing import Any

from sweep.tracking.client import mlflow

ALIAS = "champion"
TASK = "sweep.task"
"""Tag of a version: eval losses of versions with one task compare."""


def register(client: Any, name: str, run_id: str, tags: Mapping[str, str], description: str) -> str:
    """Register the adapter of a run, once, and give it the alias if it deserves it.

    The alias stays where it is only if the version that has it was measured on the same task and
    is better: values of two tasks say nothing of each other.

    Args:
        client: An `MlflowClient`.
        name: Of the registered model, which is created if it is not there.
        run_id: The winner's.
        tags: `value`, `direction`, `sweep.task` and whatever else a version should say of itself.
        description: Markdown.

    Returns:
        What was done, in words.
    """
    versions = _versions(client, name)
    version = next((v for v in versions if v.run_id == run_id), None)
    if version is None:
        version = client.create_model_version(
            name, f"runs:/{run_id}/adapter", run_id, tags=dict(tags), description=description
        )
    said = f"{name}, version {version.version}"
    champion = _champion(client, name)
    if champion is not None and _is_better(champion, tags) and champion.run_id != run_id:
        return (
            f"{said}; {ALIAS} stays with version {champion.version}, which has "
            f"{float(champion.tags['value']):.4f} on the same task."
        )
    client.set_registered_model_alias(name, ALIAS, version.version)
    return f"{said}, {ALIAS}."


def is_registered(client: Any, run_id: str) -> bool:
    """Whether any version of any model is a run's: its files must stay."""
    return bool(client.search_model_versions(f"run_id = '{run_id}'", max_results=1))


def _versions(client: Any, name: str) -> list[Any]:
    try:
        client.create_registered_model(name)
    except mlflow().MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    escaped = name.replace("'", "''")
    return list(client.search_model_versions(f"name = '{escaped}'"))


def _champion(client: Any, name: str) -> Any | None:
    try:
        return client.get_model_version_by_alias(name, ALIAS)
    except mlflow().MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None  # the second is what a database says of an alias that is not there
        raise


def _is_better(champion: Any, tags: Mapping[str, str]) -> bool:
    same_task = champion.tags.get(TASK) == tags[TASK]
    if not same_task:
        return False
    apart = float(champion.tags["value"]) - float(tags["value"])
    return apart < 0 if tags["direction"] == "minimize" else apart > 0
