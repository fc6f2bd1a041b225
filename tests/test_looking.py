"""Looking at a sweep, of whomever: it is read, and nothing of it is written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweep.cli.commands import app
from sweep.folder.lock import locked
from sweep.tracking.sqlite_tables import make_tables
from tests.sweep.reviewed import make_config, point, result, write_sweep
from tests.sweep.tracking.test_mlflow_tracker import free_port
from tests.without_rights import AS_OTHERS, close_to_writing, ends_of, listing

LOOKING = [
    "status mine",
    "status mine --json",
    "show mine",
    "show mine 0 --json",
    "show mine 0 --plot",
    "show mine --csv",
    "best mine",
    "best mine --yaml trl",
    "compare mine:0 mine:1",
    "list",
    "confirm mine --json",
    "clean mine",
]
CHANGING = {
    "report mine": "report.html: cannot be written: Permission denied. Name a file elsewhere: --to",
    "confirm mine": "mine: must be a folder that this command can write, but is not: Permission",
    "sync mine": "mine: must be a folder that this command can write, but is not: Permission",
    "clean mine --yes": "mine: must be a folder that this command can write, but is not: Permis",
}
DIES = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute(f"PRAGMA journal_mode = {sys.argv[2]}")
database.execute("PRAGMA cache_size = 1")
database.execute("BEGIN")
database.execute("UPDATE studies SET study_name = 'half'")
database.execute("CREATE TABLE large (it)")
for _ in range(100):
    database.execute("INSERT INTO large VALUES (zeroblob(10000))")
if sys.argv[2] == "wal":
    database.execute("UPDATE studies SET study_name = 'mine'")
    database.execute("COMMIT")
os._exit(0)
"""


def dies_writing(database: Path, journal: str) -> None:
    subprocess.run([sys.executable, "-c", DIES, str(database), journal], check=True)


STATES: dict[str, Callable[[Path], None]] = {
    "whole": lambda database: None,
    "half a transaction": lambda database: dies_writing(database, "delete"),
    "a write-ahead log": lambda database: dies_writing(database, "wal"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep of two trials, in a folder of sweeps."""
    curve = [point(index, 2.0 - index / 10) for index in range(1, 5)]
    ended = [(make_config(number), result("completed", curve), curve) for number in (0, 1)]
    folder = write_sweep(tmp_path / "sweeps" / "mine", ended)
    (folder / "confirm").mkdir()
    (folder / "confirm" / "plan.json").write_text("[[0, 8]]")
    (folder / "trials" / "000" / "adapter").mkdir()
    config = {"base_model_name_or_path": "org/model", "peft_type": "LORA", "r": 8}
    (folder / "trials" / "000" / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    return folder


def everything(to: Path) -> list[str]:
    to.mkdir()
    return [*LOOKING, f"report mine --to {to}/mine.html", f"export mine --to {to}/it --no-check"]


@pytest.mark.parametrize(
    ("whose", "state"),
    [
        ("mine", "half a transaction"),
        ("mine", "a write-ahead log"),
        *(("read-only", state) for state in STATES),
        pytest.param(
            "another user's",
            "whole",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root makes another's folder"),
        ),
    ],
)
def test_all_of_a_sweep_can_be_seen_and_nothing_of_it_is_written(
    folder: Path, tmp_path: Path, whose: str, state: str
) -> None:
    STATES[state](folder / "study.db")
    beside = {path.name for path in folder.glob("study.db-*")}
    assert beside == {"whole": set(), "half a transaction": {"study.db-journal"}}.get(
        state, {"study.db-wal", "study.db-shm"}
    )
    if whose != "mine":
        close_to_writing(folder.parent, owner=65534 if whose == "another user's" else None)
    before = listing(folder.parent)
    ends = ends_of(everything(tmp_path / "to"), folder.parent)
    assert {command: end for command, end in ends.items() if end[0] != 0} == {}
    assert listing(folder.parent) == before
    assert "mine has finished" in ends["status mine"][1]
    assert json.loads(ends["show mine 0 --json"][1])["outcome"] == "completed"
    assert "<title>mine: sweep report" in (tmp_path / "to" / "mine.html").read_text()
    assert {path.name for path in (tmp_path / "to" / "it").iterdir()} == {
        "adapter_config.json",
        "README.md",
    }


def test_what_must_write_is_refused_in_words(folder: Path, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(
        "name: mine\nbase_model: smollm2-135m\nsearch: {rank: [8]}\n"
        "data: {train: train.jsonl, eval: 0.1}\n"
    )
    (tmp_path / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    close_to_writing(folder.parent)
    before = listing(folder.parent)
    words = {
        **CHANGING,
        f"run {space}": "mine: must be a folder that this command can write, but is not: Permis",
        f"run {space} --name new": f"{folder.parent}/new: Permission denied. Ask its owner for",
        f"trial {space}": "Permission denied. Ask its owner for",
    }
    for command, (code, said) in ends_of(list(words), folder.parent).items():
        assert (command, code) == (command, 2), said
        assert words[command] in " ".join(said.split())
    assert listing(folder.parent) == before


def test_a_closed_folder_is_not_taken_for_none(folder: Path) -> None:
    folder.chmod(0)
    code, said = ends_of(["show mine"], folder.parent)["show mine"]
    folder.chmod(0o755)
    assert (code, said.startswith(f"{folder}: must be open to you, but is not.")) == (2, True)


def test_a_report_replaces_nothing_but_a_report(folder: Path, tmp_path: Path) -> None:
    commands = [f"report mine --to {path}" for path in ("/dev/null", folder / "study.db", tmp_path)]
    for code, said in ends_of(commands, folder.parent).values():
        assert (code, "must be a new file or an earlier report" in said) == (2, True)
    again = [f"report mine --to {tmp_path}/mine.html", "report mine"]
    for _ in range(2):
        assert [code for code, _ in ends_of(again, folder.parent).values()] == [0, 0]


# SQLAlchemy 2.1 warns of a loader that MLflow 3.17 uses in its own tables, once, when imported.
@pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)
def test_mlflow_shows_a_copy_of_what_can_only_be_read(folder: Path, tmp_path: Path) -> None:
    make_tables(folder / "mlflow.db")
    add_experiment(folder / "mlflow.db")
    where = {"uri": f"sqlite:///{folder}/mlflow.db", "experiment_id": "0"}
    (folder / "mlflow.json").write_text(json.dumps(where))
    close_to_writing(folder.parent)
    before, port = listing(folder.parent), free_port()
    (tmp_path / "tmp").mkdir()
    ui = [*AS_OTHERS, sys.executable, "-m", "sweep", "ui", "mine", "--port", str(port)]
    with subprocess.Popen(
        [*ui, "--output", str(folder.parent)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        start_new_session=True,
    ) as shown:
        assert shown.stdout is not None
        assert f"mine can only be read: this is a copy of it, as it is now, in {tmp_path}/tmp" in (
            shown.stdout.readline()
        )
        assert f"MLflow shows mine at http://127.0.0.1:{port}/" in shown.stdout.readline()
        search = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search",
            data=b'{"max_results": 9}',
            headers={"Content-Type": "application/json"},
        )
        answer = until_it_answers(search)
        os.killpg(shown.pid, signal.SIGTERM)
    assert "kept" in {found["name"] for found in answer["experiments"]}
    assert listing(folder.parent) == before
    assert list((tmp_path / "tmp").iterdir()) == []


def add_experiment(database: Path) -> None:
    with closing(sqlite3.connect(database)) as opened, opened:
        opened.execute(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) "
            "VALUES (7, 'kept', '/nowhere', 'active')"
        )


def until_it_answers(request: urllib.request.Request) -> dict[str, list[dict[str, str]]]:
    answers: list[dict[str, list[dict[str, str]]]] = []

    def answered() -> bool:
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                answers.append(json.load(answer))
        except OSError:
            return False
        return True

    wait_until(answered)
    return answers[0]


def wait_until(is_so: Callable[[], bool], seconds: float = 60.0) -> None:
    import time

    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_copied_sweep_can_be_seen_where_it_lies_now(folder: Path, tmp_path: Path) -> None:
    there = tmp_path / "archive"
    shutil.copytree(folder.parent, there)
    shutil.rmtree(folder.parent)
    close_to_writing(there)
    ends = ends_of(LOOKING, there)
    assert {command: end for command, end in ends.items() if end[0] != 0} == {}


def test_others_see_that_a_sweep_runs(folder: Path) -> None:
    with locked(folder):
        close_to_writing(folder.parent)
        before = listing(folder.parent)
        ends = ends_of(["status mine", "best mine", "clean mine"], folder.parent)
        assert listing(folder.parent) == before
    assert f"mine is running, as process {os.getpid()} on" in ends["status mine"][1]
    assert {code for code, _ in ends.values()} == {0}
    assert f"it runs as process {os.getpid()} on" in ends["clean mine"][1]


def test_a_sweep_whose_lock_file_is_gone_can_be_stopped(folder: Path) -> None:
    with locked(folder):
        (folder / "lock").unlink()
        done = CliRunner().invoke(
            app, ["stop", "mine", "--no-wait", "--output", str(folder.parent)]
        )
        assert (done.exit_code, (folder / "stop").exists()) == (0, True), done.output
