from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from sweep.errors import TrackingError
from sweep.tracking.mlflow_tracker import MlflowTracker
from sweep.tracking.run_index import RunIndex
from sweep.tracking.sqlite_tables import make_tables

# MLflow's own models use a loader strategy that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)

N_KILLS = 25


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as database:
        return {name for (name,) in database.execute("SELECT name FROM sqlite_master")}


def runs_on(path: Path) -> RunIndex:
    return RunIndex(f"sqlite:///{path}", "quick", path.parent, None)


def make_and_be_killed(folder: Path) -> None:
    """Fork `N_KILLS` processes that make a database each, and kill each at a random moment."""
    make_tables(folder / "whole.db")  # imports what must not be imported after a fork
    began = time.monotonic()
    make_tables(folder / "timed.db")
    seconds = time.monotonic() - began
    chance = random.Random(0)
    for number in range(N_KILLS):
        child = os.fork()
        if child == 0:
            make_tables(folder / f"killed-{number}.db")
            os._exit(0)
        # Most of the time goes by in memory; half of the kills are to hit the file.
        time.sleep(seconds * chance.uniform(0.0, 1.2))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.long
def test_a_process_killed_while_it_makes_the_tables_leaves_all_or_none(tmp_path: Path) -> None:
    subprocess.run([sys.executable, __file__, tmp_path], check=True, timeout=300)
    whole = tables(tmp_path / "whole.db")
    found = [tables(path) for path in tmp_path.glob("killed-*.db")]
    assert whole >= {"runs", "experiments", "alembic_version"}
    assert set() in found
    assert all(names in (set(), whole) for names in found)
    interrupted = next(path for path in tmp_path.glob("killed-*.db") if not tables(path))
    assert runs_on(interrupted).find_experiment() is None
    assert tables(interrupted) == whole


def test_the_tables_are_those_that_mlflow_makes_and_stay(tmp_path: Path) -> None:
    path = tmp_path / "new" / "mlflow.db"
    experiment = runs_on(path).experiment_id
    make_tables(path)
    assert runs_on(path).find_experiment() == experiment
    assert {file.name for file in path.parent.iterdir()} == {"mlflow.db", "mlflow.json"}


def test_two_processes_may_begin_one_database(tmp_path: Path) -> None:
    path = tmp_path / "shared.db"
    module = "sweep.tracking.sqlite_tables"
    code = f"import pathlib, {module} as m; m.make_tables(pathlib.Path({str(path)!r}))"
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert runs_on(path).find_experiment() is None


def test_tables_that_were_left_half_made_are_said_in_words(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    make_tables(path)
    with closing(sqlite3.connect(path)) as database, database:
        # The columns of revision da6fb0208061 are there already, the table of the next one is not.
        database.execute("UPDATE alembic_version SET version_num = '7d34483879f0'")
        database.execute("DROP TABLE label_schemas")
    said = r"mlflow\.db cannot be used: .* \(duplicate column name: .*delete it if it holds no runs"
    with pytest.raises(TrackingError, match=said):
        MlflowTracker(
            uri=f"sqlite:///{path}", name="quick", artifacts_dir=None, output_dir=tmp_path
        )


if __name__ == "__main__":
    make_and_be_killed(Path(sys.argv[1]))


def test_a_current_folder_with_both_kinds_of_quotes_breaks_no_statement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow writes the place of its default experiment as Python quotes it."""
    folder = tmp_path / 'it\'s "so"'
    folder.mkdir()
    monkeypatch.chdir(folder)
    make_tables(folder / "mlflow.db")
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        found = database.execute("SELECT name, artifact_location FROM experiments").fetchall()
    assert found == [("Default", (folder / "mlruns" / "0").as_uri())]
