"""MLflow: a parent run for the sweep, a child run for each trial."""

import os

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
