"""The fault campaign in short: kills of the command, of a worker, and of the servers."""

from __future__ import annotations

import signal

import pytest

from tests.faults.course import Course, lay_out
from tests.faults.outside import away, on_postgres
from tests.faults.tally import Tally
from tests.servers.postgresql import PASSWORD, programs_dir

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings(
        # SQLAlchemy 2.1 warns of a loader that MLflow 3.17 uses in its own tables.
        "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
    ),
]


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Course:
    return lay_out(tmp_path_factory.mktemp("faults"), n_trials=3, epochs="[12, 16]")


def test_a_sweep_ends_the_same_though_its_command_and_then_a_worker_were_killed(
    course: Course,
) -> None:
    sweep = course.new_sweep("killed")
    tally = Tally("both", 2, course.reference)
    sweep.start()
    assert sweep.wait_until_begun(), sweep.words
    sweep.wait(1.5)
    tally.injected(sweep, "SIGKILL to the command")
    sweep.send(signal.SIGKILL)
    tally.check_gone(sweep)
    tally.check_readable(sweep)
    assert tally.found == []

    sweep.start()
    assert sweep.wait_until_begun(), sweep.words
    number, worker = sorted(sweep.at_work().items())[0]
    tally.injected(sweep, f"SIGKILL to the worker of trial {number}")
    worker.kill()
    tally.check_end(sweep, sweep.wait(120))
    assert tally.found == []


@pytest.mark.skipif(programs_dir() is None, reason="PostgreSQL is not installed")
def test_a_sweep_ends_the_same_though_its_servers_were_killed(course: Course) -> None:
    tally = Tally("servers", 2, course.reference)
    with on_postgres(course.folder / "mlflow-on-postgres") as (databases, mlflow):
        databases.create("study")
        study = databases.secret_address("study")
        sweep = course.new_sweep("servers", server=mlflow, study=study)
        sweep.start()
        assert sweep.wait_until_begun(), sweep.words
        away(databases, sweep, tally, seconds=3.0)
        mlflow.kill()
        sweep.wait(1.0)
        mlflow.start()
        tally.check_end(sweep, sweep.wait(120))
        assert "The study can be " in sweep.words
        assert tally.found == []
    written = [path for path in sweep.space.parent.rglob("*") if path.is_file()]
    assert [path for path in written if PASSWORD.encode() in path.read_bytes()] == []
