"""A real MLflow server: on PostgreSQL, with passwords, its artifacts in a bucket."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError
from mlflow import MlflowClient

from sweep.errors import TrackingError
from sweep.tracking.mlflow_tracker import MlflowTracker
from sweep.tracking.run_index import RunIndex
from tests.faults.mlflow_server import MlflowServer
from tests.servers.postgresql import PASSWORD, PostgresServer
from tests.sweep.tracking.test_mlflow_tracker import close, config, run_trial

pytestmark = pytest.mark.filterwarnings(
    # SQLAlchemy 2.1 warns of a loader that MLflow 3.17 uses in its own tables.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)

AUTH = """\
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = {database}
admin_username = sweeper
admin_password = {password}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""
BUCKET = "artifacts-of-a-test"
KEYS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def bucket_address(tmp_path: Path) -> Iterator[str]:
    """Where an S3 server answers that has the bucket."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (tmp_path / "s3.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                s3(address).create_bucket(Bucket=BUCKET)
                break
            except EndpointConnectionError:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.3)
        yield address
    finally:
        process.kill()
        process.wait()


def s3(address: str) -> boto3.client:
    return boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id="k",
        aws_secret_access_key="s",
    )


@pytest.fixture
def server(
    database: str, postgres: PostgresServer, bucket_address: str, tmp_path: Path
) -> Iterator[MlflowServer]:
    secret = postgres.secret_address(database.rpartition("/")[2])
    passwords = postgres.create(f"{database.rpartition('/')[2]}_auth").rpartition("/")[2]
    auth = tmp_path / "auth.ini"
    auth.write_text(AUTH.format(database=postgres.secret_address(passwords), password=PASSWORD))
    server = MlflowServer(
        tmp_path / "mlflow",
        database=secret,
        artifacts=f"s3://{BUCKET}/sweeps",
        more=["--app-name", "basic-auth"],
        environment={
            **KEYS,
            "MLFLOW_S3_ENDPOINT_URL": bucket_address,
            "MLFLOW_AUTH_CONFIG_PATH": str(auth),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test",
        },
    )
    server.start()
    yield server
    server.kill()


def test_a_sweep_is_tracked_on_postgresql_with_a_password_and_a_bucket(
    server: MlflowServer, bucket_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "quick"
    trial = config(folder)
    adapter = Path(trial.output_dir) / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 4096)
    for name in ("log.txt", "config.json"):
        (adapter.parent / name).write_text("{}")
    (folder / "space.yaml").write_text("name: quick\n")

    def opened() -> MlflowTracker:
        return MlflowTracker(
            uri=server.address, name="quick", artifacts_dir=None, output_dir=folder
        )

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "sweeper")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a wrong one")
    with pytest.raises(TrackingError, match="Set MLFLOW_TRACKING_USERNAME and"):
        opened()
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    tracker = opened()
    tracker.open_sweep({}, {}, folder / "space.yaml")
    run_trial(tracker, trial, [1.5, 1.25])
    close(tracker)

    client = MlflowClient(server.address)
    child = RunIndex(server.address, "quick", folder, None).find_child(trial.number)
    assert child.data.metrics["eval_loss_best"] == 1.25
    fetched = Path(client.download_artifacts(child.info.run_id, "adapter", str(tmp_path)))
    name = "adapter_model.safetensors"
    assert (fetched / name).read_bytes() == (adapter / name).read_bytes()
    there = s3(bucket_address).list_objects_v2(Bucket=BUCKET)["Contents"]
    assert any(entry["Key"].endswith(f"adapter/{name}") for entry in there)
    assert json.loads((folder / "mlflow.json").read_text())["uri"] == server.address
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert all(PASSWORD.encode() not in path.read_bytes() for path in written)
