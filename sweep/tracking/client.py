"""MLflow itself and its client, and which of its errors will never pass."""

import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.exc import DBAPIError

from sweep.storage.sqlite import file_of
from sweep.tracking.fast_http import acknowledge_at_once
from sweep.tracking.sqlite_tables import make_tables, unusable

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # ours come instead: its 7 take minutes
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # else eight more processes beside the UI
}
"""Of MLflow and its server, as far as a user has not set it."""
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_DATABASE_FAULT = re.compile(r"\b(Interface|Internal|Database)Error\)|QueuePool|rolled back")


def mlflow() -> Any:
    """Import MLflow, which reads most of `ENVIRONMENT` as it is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow

    return mlflow


def client_of(uri: str) -> Any:
    """Return what asks MLflow; raises what `not_there` names. A sqlite file gets its tables."""
    client = mlflow().MlflowClient
    acknowledge_at_once()
    for logger in ("mlflow", "alembic"):  # every failed attempt would be a traceback
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    if (file := file_of(uri)) is not None:
        make_tables(file)
    try:
        return client(tracking_uri=uri, registry_uri=uri)
    except DBAPIError as error:
        raise unusable(error) from None


@contextmanager
def answering_soon() -> Iterator[None]:
    """Give MLflow 10 seconds for an answer, not its 120: somebody is looking on."""
    is_ours = _TIMEOUT not in os.environ
    os.environ.setdefault(_TIMEOUT, "10")
    try:
        yield
    finally:
        if is_ours:
            del os.environ[_TIMEOUT]


def not_there() -> tuple[type[Exception], ...]:
    """Return what is raised where MLflow cannot be used."""
    return mlflow().MlflowException, sqlite3.Error, OSError


def is_refused(error: Exception) -> bool:
    """Whether MLflow will answer the same write in the same way for ever."""
    if isinstance(error, mlflow().MlflowException):
        status, text = error.get_http_status_code(), str(error)
        if error.error_code == "RESOURCE_ALREADY_EXISTS" or _DATABASE_FAULT.search(text):
            return False  # MLflow says 400 of these too
        return bool(status == 400)
    status = getattr(getattr(error, "response", None), "status_code", None)  # of an upload
    return isinstance(error, NotImplementedError | NoRunError) or status in (400, 413)


class NoRunError(LookupError):
    """A write for a trial whose run MLflow does not have: its first write was refused, or the run
    was deleted."""
