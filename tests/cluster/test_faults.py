"""The fault campaign on a cluster in short: a node joins late, the head is cut off, nodes die."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import faults
from tests.cluster.faults import Course
from tests.cluster.machines import why_not
from tests.faults.tally import Tally

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(why_not() is not None, reason=f"no cluster: {why_not()}"),
    pytest.mark.filterwarnings(
        # SQLAlchemy 2.1 warns of a loader that MLflow 3.17 uses in its own tables.
        "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
    ),
]


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Course]:
    folder = tmp_path_factory.mktemp("cluster")
    with faults.lay_out(folder, n_workers=2, n_trials=6, epochs="[60, 80]") as course:
        yield course


def test_a_sweep_ends_the_same_though_nodes_are_slow_cut_off_late_and_killed(
    course: Course,
) -> None:
    tally = Tally("all", 4, course.reference)
    faults.all_at_once(course, tally)
    assert tally.found == []
    assert tally.n_injected == 4


def test_a_sweep_submitted_from_outside_ends_the_same_though_a_node_is_killed(
    course: Course,
) -> None:
    tally = Tally("submitted", 1, course.reference)
    faults.node_killed_of_a_submitted_sweep(course, tally)
    assert tally.found == []
    assert tally.n_injected == 1
