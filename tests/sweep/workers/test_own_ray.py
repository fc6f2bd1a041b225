"""A Ray of our own is closed to other users of the machine, and to the current folder."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LOOKS = """
import json, os, sys
from pathlib import Path
os.umask(0)
from sweep.workers import connection
connection.connect(n_cpu_workers=1)
import psutil, ray

@ray.remote
def paths():
    return sys.path

folder = Path(connection._own[0].folder)
token = os.environ["RAY_AUTH_TOKEN"]
sockets = [c.laddr for p in psutil.Process().children(recursive=True)
           for c in p.net_connections("inet") if c.status == "LISTEN"]
print(json.dumps({
    "mode": folder.stat().st_mode,
    "hosts": sorted({address.ip.removeprefix("::ffff:") for address in sockets}),
    "in_commands": [p.name() for p in psutil.process_iter(["cmdline"]) if p.pid != os.getpid()
                    for secret in (token, "hunter2") if secret in str(p.info["cmdline"])],
    "paths": ray.get(paths.remote()),
}))
connection.disconnect()
print(json.dumps({"token": os.environ.get("RAY_AUTH_TOKEN"), "folder": folder.exists()}))
"""


Looked = tuple[Path, Path, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> Looked:
    """A home, a current folder, and what was seen while Ray ran and after it."""
    home, current = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("current")
    environment = {**os.environ, "HOME": str(home), "RAY_AUTH_TOKEN": "of another Ray"}
    done = subprocess.run(
        [sys.executable, "-c", LOOKS, "--mlflow", "http://me:hunter2@host"],
        cwd=current,
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=True,
    )
    return home, current, [json.loads(line) for line in done.stdout.splitlines()]


def test_nobody_else_reaches_its_sockets_and_files(looked: Looked) -> None:
    _, _, (running, _) = looked
    assert stat.S_IMODE(running["mode"]) == 0o700
    assert running["hosts"] == ["127.0.0.1"]


def test_its_token_is_in_the_environment_alone_and_no_command_repeats_a_password(
    looked: Looked,
) -> None:
    home, _, (running, after) = looked
    assert running["in_commands"] == []
    assert not (home / ".ray").exists()
    assert after == {"token": "of another Ray", "folder": False}


def test_a_worker_imports_nothing_from_the_current_folder(looked: Looked) -> None:
    _, current, (running, _) = looked
    assert str(current) not in running["paths"]
