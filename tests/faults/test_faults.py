"""The fault campaign in short: one kill of the command, one of a worker."""

from __future__ import annotations

import signal

import pytest

from tests.faults.faults import Course, lay_out
from tests.faults.tally import Tally

pytestmark = pytest.mark.filterwarnings(
    # SQLAlchemy 2.1 warns of a loader that MLflow 3.17 uses in its own tables.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)


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
