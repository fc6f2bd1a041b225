"""The faults of a cluster: each function injects one into a sweep and counts what goes wrong."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient

from tests import tiny
from tests.cluster.machines import Machine
from tests.cluster.nodes import Cluster
from tests.cluster.sweeps import SubmittedSweep, SweepOnCluster
from tests.faults import states
from tests.faults.campaign import write_space
from tests.faults.tally import Tally

ENDS_WITHIN_SECONDS = 900.0
SLOWER = 8.0
"""A slow node takes so many times as long for everything."""


@dataclass
class Course:
    """A cluster, and how sweeps on it end when nothing disturbs them."""

    cluster: Cluster
    disk: Path
    """The head's."""
    base: Path
    n_trials: int
    epochs: str
    """As the YAML file has them."""
    reference: dict[int, states.Ended]

    def new_sweep(self, name: str) -> SweepOnCluster:
        """A sweep in a folder of its own that nobody has started."""
        folder = self.disk / name
        space = write_space(folder, self.base, n_trials=self.n_trials, epochs=self.epochs)
        return SweepOnCluster(space, self.cluster)


@contextlib.contextmanager
def lay_out(folder: Path, *, n_workers: int, n_trials: int, epochs: str) -> Iterator[Course]:
    """Start a cluster and run the sweep that nothing disturbs on it."""
    base, disk = tiny.make_base(folder / "base"), folder / "disk"
    disk.mkdir()
    with Cluster(n_workers, shared=[base], disk=disk) as cluster:
        course = Course(cluster, disk, base, n_trials, epochs, {})
        sweep = course.new_sweep("reference")
        sweep.start()
        code = sweep.wait(ENDS_WITHIN_SECONDS)
        left = sweep.gone()
        assert code == 0 and not left, (code, left, sweep.words)
        course.reference = states.results(states.study_of(sweep))
        problems = [*states.unreadable(sweep), *states.wrong(sweep, course.reference)]
        assert not problems, problems
        assert sorted(course.reference) == list(range(n_trials))
        assert set(sweep.n_starts().values()) == {1}, sweep.words
        yield course


def node_killed(course: Course, tally: Tally) -> SweepOnCluster:
    """A node goes in the middle of its trials, with all its processes and files."""
    sweep = course.new_sweep(f"killed-{tally.n_sweeps}")
    with _kills_a_node(sweep, tally):
        tally.check_readable(sweep)
        tally.check_end(sweep, sweep.wait(ENDS_WITHIN_SECONDS))
    return sweep


def node_killed_of_a_submitted_sweep(course: Course, tally: Tally) -> SweepOnCluster:
    """As `node_killed`, of a sweep that is submitted, followed and fetched from outside."""
    folder = course.disk / f"submitted-{tally.n_sweeps}"
    space = write_space(folder, course.base, n_trials=course.n_trials, epochs=course.epochs)
    sweep = SubmittedSweep(space, course.cluster)
    with _kills_a_node(sweep, tally):
        code = sweep.wait(ENDS_WITHIN_SECONDS)
        if code != 0:
            tally.is_wrong(f"the command has ended with {code}: {sweep.words}")
        tally.check_gone(sweep)
        for words in [*states.tracebacks(sweep), *_wrong_when_fetched(sweep, course.reference)]:
            tally.is_wrong(words)
    return sweep


@contextlib.contextmanager
def _kills_a_node(sweep: SweepOnCluster, tally: Tally) -> Iterator[None]:
    """Start a sweep, kill a node amid its trials, and see afterwards that they have moved."""
    sweep.start()

    def with_checkpoint() -> Machine | None:
        for worker in sweep.cluster.workers:
            if any(sweep.has_checkpoint(number) for number in sweep.on(worker)):
                return worker
        return None

    sweep.wait_until(lambda: with_checkpoint() is not None)
    victim = with_checkpoint()
    if victim is None:
        sweep.gone(0)
        raise AssertionError(f"no trial beside the head wrote a checkpoint: {sweep.words}")
    trials = {number: sweep.has_checkpoint(number) for number in sorted(sweep.on(victim))}
    tally.injected(sweep, f"{victim.name} is killed, with its trials {list(trials)}")
    sweep.cluster.kill(victim)
    yield
    for number, has_checkpoint in trials.items():
        _check_moved(sweep, tally, number, victim)
        if has_checkpoint and "going on after step" not in sweep.log_of(number):
            tally.is_wrong(f"trial {number} has begun anew, though it had a checkpoint")


def _wrong_when_fetched(sweep: SubmittedSweep, reference: dict[int, states.Ended]) -> Iterator[str]:
    """What differs, of what has arrived, from what an undisturbed sweep would have sent."""
    found = states.results(states.study_of(sweep))
    if found != reference:
        yield f"the fetched study has {found}, not {reference}"
    client, where = MlflowClient(sweep.mlflow), json.loads((sweep.dir / "mlflow.json").read_text())
    runs = client.search_runs([where["experiment_id"]])
    by_trial = Counter(run.data.tags.get("trial_number", "parent") for run in runs)
    if by_trial != Counter(["parent", *map(str, reference)]):
        yield f"MLflow has the runs {by_trial}"
    unfinished = [run.data.tags for run in runs if run.info.status != "FINISHED"]
    if unfinished:
        yield f"MLflow has runs that are not FINISHED: {unfinished}"
    best = min(ended.eval_loss_best for ended in reference.values() if ended.eval_loss_best)
    if f"{best:.4f}" not in (sweep.dir / "output.txt").read_text():
        yield "the fetched output.txt does not tell the best eval loss"
    yield from states.broken_adapter(sweep.dir / "best" / "adapter")


def all_at_once(course: Course, tally: Tally, *, seconds: float = 20.0) -> SweepOnCluster:
    """One node is slow, one is killed amid its trials, the head is cut off, one joins."""
    sweep, cluster = course.new_sweep(f"all-{tally.n_sweeps}"), course.cluster
    sweep.start()
    slow, victim = cluster.workers
    sweep.wait_until(lambda: bool(sweep.on(slow)))
    tally.injected(sweep, f"{slow.name} becomes slow, with its trials {sorted(sweep.on(slow))}")
    slow.slow(SLOWER)
    try:
        sweep.wait_until(lambda: any(sweep.has_checkpoint(n) for n in sweep.on(victim)))
        trials = sorted(sweep.on(victim))
        tally.injected(sweep, f"{victim.name} is killed, with its trials {trials}")
        cluster.kill(victim)
        tally.injected(sweep, f"the head is cut off for {seconds:.0f} s")
        cluster.head.disconnect(seconds)
        tally.injected(sweep, f"{cluster.join().name} joins")
        tally.check_readable(sweep)
        tally.check_end(sweep, sweep.wait(ENDS_WITHIN_SECONDS))
    finally:
        slow.hurry()
    if not any("going on after step" in sweep.log_of(number) for number in trials):
        tally.is_wrong(f"the trials {trials} have begun anew, though one had a checkpoint")
    return sweep


def _check_moved(sweep: SweepOnCluster, tally: Tally, number: int, victim: Machine) -> None:
    places = [node for started, node in sweep.starts if started == number]
    if len(places) != 2 or places[-1] == victim.name:
        tally.is_wrong(f"trial {number} ran on {places}, not once more elsewhere")


def head_disconnected(course: Course, tally: Tally, *, seconds: float) -> SweepOnCluster:
    """The head's cable is out for a while; nodes that Ray gives up come back as new ones."""
    sweep, cluster = course.new_sweep(f"disconnected-{tally.n_sweeps}"), course.cluster
    sweep.start()
    sweep.wait_until(lambda: any(sweep.on(worker) for worker in cluster.workers))
    tally.injected(sweep, f"the head is cut off for {seconds:.0f} s; {sweep.running()} run")
    cluster.head.disconnect(seconds)
    tally.check_readable(sweep)
    tally.check_end(sweep, sweep.wait(ENDS_WITHIN_SECONDS))
    return sweep


def node_joins(course: Course, tally: Tally) -> SweepOnCluster:
    """A node comes while the sweep runs, and gets trials."""
    sweep, cluster = course.new_sweep(f"joined-{tally.n_sweeps}"), course.cluster
    sweep.start()
    sweep.wait_until_begun()
    worker = cluster.join()
    tally.injected(sweep, f"{worker.name} joins")
    tally.check_end(sweep, sweep.wait(ENDS_WITHIN_SECONDS))
    if not any(node == worker.name for _, node in sweep.starts):
        tally.is_wrong(f"no trial has run on {worker.name}")
    return sweep


def node_slow(course: Course, tally: Tally) -> SweepOnCluster:
    """A node becomes slow while it runs trials."""
    sweep, cluster = course.new_sweep(f"slow-{tally.n_sweeps}"), course.cluster
    sweep.start()
    worker = cluster.workers[0]
    sweep.wait_until(lambda: bool(sweep.on(worker)))
    tally.injected(sweep, f"{worker.name} becomes slow, with its trials {sorted(sweep.on(worker))}")
    worker.slow(SLOWER)
    try:
        tally.check_end(sweep, sweep.wait(ENDS_WITHIN_SECONDS))
    finally:
        worker.hurry()
    return sweep


FAULTS: dict[str, Callable[[Course, Tally], SweepOnCluster]] = {
    "kill": node_killed,
    "submitted": node_killed_of_a_submitted_sweep,
    "cut": lambda course, tally: head_disconnected(course, tally, seconds=60.0),
    "join": node_joins,
    "slow": node_slow,
}
