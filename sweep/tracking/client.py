"""MLflow's client, and which of its errors will never pass."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import DBAPIError

from sweep.tracking.sqlite_tables import make_tables, unusable

_DATABASE_FAULT = re.compile(r"\b(Interface|Internal|Database)Error\)|QueuePool|rolled back")
NOT_THERE = (MlflowException, sqlite3.Error, OSError)
"""What is raised where MLflow cannot be used."""


def client_of(uri: str) -> MlflowClient:
    """Return what asks MLflow; raises what is in `NOT_THERE`. A sqlite file gets its tables."""
    if uri.startswith("sqlite:///"):
        make_tables(Path(uri.removeprefix("sqlite:///")))
    try:
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except DBAPIError as error:
        raise unusable(error) from None


def is_refused(error: Exception) -> bool:
    """Whether MLflow will answer the same write in the same way for ever."""
    if isinstance(error, MlflowException):
        status, text = error.get_http_status_code(), str(error)
        if error.error_code == "RESOURCE_ALREADY_EXISTS" or _DATABASE_FAULT.search(text):
            return False  # MLflow says 400 of these too
        return bool(status == 400)
    status = getattr(getattr(error, "response", None), "status_code", None)  # of an upload
    return isinstance(error, NotImplementedError | NoRunError) or status in (400, 413)


class NoRunError(LookupError):
    """A write for a trial whose run MLflow does not have: its first write was refused, or the run
    was deleted."""
