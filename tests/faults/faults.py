"""The faults: each function injects one kind of them into sweeps and counts what goes wrong."""

from __future__ import annotations

import os
import random
import re
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from sweep.workers.signals import ENDING
from tests import tiny
from tests.faults import states
from tests.faults.campaign import ALONE, DRAWN_ALONE, WHOM, SweepUnderTest, write_space
from tests.faults.mlflow_server import MlflowServer
from tests.faults.short_of_memory import end_for_memory
from tests.faults.small_disk import SmallDisk
from tests.faults.tally import Tally
from tests.servers.postgresql import PASSWORD, PostgresServer

LATEST_SECONDS = 25.0
"""So long after its first trial began, a command is cut off at the latest."""
ENDS_WITHIN_SECONDS = 600.0
STOPS_WITHIN_SECONDS = 60.0
HEARD_WITHIN_SECONDS = 15.0
SAID = re.compile("^Interrupted|Stopping: ", re.MULTILINE)
HITS_OF_A_TRIAL = 2
"""A trial is run again twice; it fails when its worker dies for the third time."""
STALL = "stall_minutes: 0.1\n"
STUCK_DIR = Path(__file__).parent / "stuck"


@dataclass
class Course:
    """Where the sweeps of a campaign lie, and how they end when nothing disturbs them."""

    folder: Path
    base: Path
    n_trials: int
    epochs: str
    """As the YAML file has them."""
    reference: dict[int, states.Ended]
    start_up_seconds: float
    """From the command to its first trial."""
    rules: str = DRAWN_ALONE
    """Of the sampler and of pruning, as the YAML file has them; empty: the defaults."""
    workers: int = 2

    @property
    def latest_moment(self) -> float:
        """When a command is cut off at the latest, in seconds."""
        return self.start_up_seconds + LATEST_SECONDS

    def new_sweep(
        self,
        name: str,
        *,
        more: str = "",
        output: Path | None = None,
        server: MlflowServer | None = None,
        study: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> SweepUnderTest:
        """A sweep in a folder of its own that nobody has started."""
        space = write_space(
            self.folder / name,
            self.base,
            n_trials=self.n_trials,
            epochs=self.epochs,
            more=self.rules + more,
        )
        return SweepUnderTest(
            space,
            output=output,
            mlflow=server.address if server else None,
            mlflow_db=server.database if server else None,
            study=study,
            environment=environment,
            workers=self.workers,
        )

    def with_defaults(self) -> Course:
        """The same with one worker, all else by default: then a sweep has one right end."""
        return _undisturbed(self.folder / "one-worker", self.base, self.n_trials, self.epochs)


def lay_out(folder: Path, *, n_trials: int = 12, epochs: str = "[20, 30]") -> Course:
    """Make the base model and run the sweep that nothing disturbs, every trial to its own end.

    The sweeps to be disturbed have the usual pruning: of trials it pauses the curve is cut short.
    """
    base = tiny.make_base(folder / "base")
    course = _undisturbed(folder, base, n_trials, epochs, rules=ALONE, workers=2)
    return replace(course, rules=DRAWN_ALONE)


def _undisturbed(
    folder: Path, base: Path, n_trials: int, epochs: str, *, rules: str = "", workers: int = 1
) -> Course:
    space = write_space(folder / "reference", base, n_trials=n_trials, epochs=epochs, more=rules)
    sweep = SweepUnderTest(space, workers=workers)
    sweep.start()
    assert sweep.wait_until_begun(), sweep.words
    start_up_seconds = time.monotonic() - sweep.started_at
    code = sweep.wait(ENDS_WITHIN_SECONDS)
    left = sweep.gone()
    assert code == 0 and not left, (code, left, sweep.words)
    reference = states.results(states.study_of(sweep))
    assert sorted(reference) == list(range(n_trials))
    problems = [*states.unreadable(sweep), *states.wrong(sweep, reference)]
    assert not problems, problems
    return Course(folder, base, n_trials, epochs, reference, start_up_seconds, rules, workers)


def driver(course: Course, chance: random.Random, tally: Tally) -> None:
    """The command is killed at a random moment, and given again."""

    def kill(sweep: SweepUnderTest) -> None:
        tally.injected(sweep, f"SIGKILL to the command {_at_work(sweep)}")
        sweep.send(signal.SIGKILL)
        sweep.wait(STOPS_WITHIN_SECONDS)
        tally.check_gone(sweep)
        tally.check_readable(sweep)

    _cut_off(course, chance, tally, kill)


def one_worker(course: Course, chance: random.Random, tally: Tally) -> None:
    """As `driver`, with one worker and the defaults: all is as if nothing had happened."""
    course = course.with_defaults()
    tally.reference = course.reference
    driver(course, chance, tally)


def signals(course: Course, chance: random.Random, tally: Tally) -> None:
    """Signals in turn, to one, some and all of its processes, at random moments; then it goes on.

    Every other time a second one follows, at any moment of the end.
    """

    def stop(sweep: SweepUnderTest) -> None:
        number = ENDING[tally.n_injected % len(ENDING)]
        whom = WHOM[tally.n_injected % len(WHOM)]
        is_twice = tally.n_injected % 2 == 1
        words = f"{number.name} to {whom}{', twice' if is_twice else ''}"
        tally.injected(sweep, f"{words} {_at_work(sweep)}")
        sweep.send(number, whom)
        if is_twice and sweep.wait(chance.uniform(0.0, 4.0)) is None:
            sweep.send(number, whom)
        code = sweep.wait(HEARD_WITHIN_SECONDS)
        if code is None:
            tally.is_wrong(f"{number.name} has not ended it in {HEARD_WITHIN_SECONDS:.0f} s")
        elif not (code == 130 and SAID.search(sweep.words)) and not _has_just_ended(sweep, code):
            tally.is_wrong(f"{number.name} has ended it with {code}: {_last_words(sweep)}")
        for words in states.tracebacks(sweep):
            tally.is_wrong(words)
        tally.check_gone(sweep)
        tally.check_readable(sweep)
        tally.check_none_runs(sweep)

    _cut_off(course, chance, tally, stop)


def _cut_off(
    course: Course, chance: random.Random, tally: Tally, cut: Callable[[SweepUnderTest], None]
) -> None:
    """Cut sweeps off at random moments, from the first second of a command on, to their end."""
    sweep: SweepUnderTest | None = None
    while not tally.is_done:
        sweep = sweep or course.new_sweep(f"{tally.fault}-{tally.n_sweeps}")
        sweep.start()
        code = _wait_for_moment(sweep, course, chance.uniform(1.0, course.latest_moment))
        if code is None:
            cut(sweep)
        else:
            tally.check_end(sweep, code)
            sweep = None
    if sweep is not None:
        sweep.start()
        tally.check_end(sweep, sweep.wait(ENDS_WITHIN_SECONDS))


def _wait_for_moment(sweep: SweepUnderTest, course: Course, moment: float) -> int | None:
    """Wait so many seconds, or so many that the usual start-up and the actual one end alike."""
    if moment <= course.start_up_seconds:
        return sweep.wait(moment)
    sweep.wait_until_begun()
    return sweep.wait(moment - course.start_up_seconds)


def workers(course: Course, chance: random.Random, tally: Tally) -> None:
    """The process of a random running trial is killed; the sweep goes on by itself."""
    while not tally.is_done:
        sweep = course.new_sweep(f"workers-{tally.n_sweeps}")
        sweep.start()
        sweep.wait_until_begun()
        hits: Counter[int] = Counter()
        while not tally.is_done and sweep.wait(chance.uniform(0.5, 6.0)) is None:
            victims = sorted(n for n in sweep.at_work() if hits[n] < HITS_OF_A_TRIAL)
            if not victims:
                continue
            number = chance.choice(victims)
            worker = sweep.at_work().get(number)
            if worker is None:
                continue
            hits[number] += 1
            tally.injected(sweep, f"SIGKILL to the worker {worker.pid} of trial {number}")
            worker.kill()
            tally.check_readable(sweep)
        tally.check_end(sweep, sweep.wait(ENDS_WITHIN_SECONDS))


def memory(course: Course, chance: random.Random, tally: Tally) -> None:
    """The kernel ends the command, its raylet or a worker, in turn, for want of memory."""
    while not tally.is_done:
        sweep = course.new_sweep(f"memory-{tally.n_sweeps}")
        sweep.start()
        sweep.wait_until_begun()
        while not tally.is_done and sweep.wait(chance.uniform(0.5, 6.0)) is None:
            whom = ("the command", "raylet", "a worker")[tally.n_injected % 3]
            victim = _victim(sweep, whom)
            if victim is None:
                continue
            tally.injected(sweep, f"no memory for {whom} {_at_work(sweep)}")
            if not end_for_memory(victim):
                tally.is_wrong(f"the kernel has not ended {whom}")
            tally.check_readable(sweep)
            if whom == "a worker":
                continue
            if sweep.wait(STOPS_WITHIN_SECONDS) is None:
                tally.is_wrong(f"the command goes on without {whom}")
            tally.check_gone(sweep)
            sweep.start()
            sweep.wait_until_begun()
        tally.check_end(sweep, sweep.wait(ENDS_WITHIN_SECONDS))


def _victim(sweep: SweepUnderTest, whom: str) -> psutil.Process | None:
    if whom == "a worker":
        return next(iter(sweep.at_work().values()), None)
    alive = sweep.processes.alive
    if whom == "raylet":
        return next((process for process in alive if process.name() == "raylet"), None)
    return next((process for process in alive if process.pid == sweep.pid), None)


def mlflow(course: Course, chance: random.Random, tally: Tally) -> None:
    """The MLflow server is killed at a random moment and comes back some seconds later."""
    server = MlflowServer(course.folder / "mlflow-server")
    server.start()
    try:
        while not tally.is_done:
            sweep = course.new_sweep(f"mlflow-{tally.n_sweeps}", server=server)
            sweep.start()
            sweep.wait_until_begun()
            while not tally.is_done and sweep.wait(chance.uniform(0.5, 12.0)) is None:
                seconds = chance.uniform(1.0, 15.0)
                tally.injected(sweep, f"MLflow's server is killed for {seconds:.1f} s")
                server.kill()
                sweep.wait(seconds)
                tally.check_readable(sweep)
                server.start()
            code = sweep.wait(ENDS_WITHIN_SECONDS)
            if code == 0 and states.UNSENT in sweep.words:
                _sync(sweep, tally)
            tally.check_end(sweep, code)
    finally:
        server.kill()


def postgres(course: Course, chance: random.Random, tally: Tally) -> None:
    """PostgreSQL, which has the study and MLflow's database, is away from a random moment on."""
    with on_postgres(course.folder / "mlflow-on-postgres") as (databases, server):
        while not tally.is_done:
            study = databases.create(f"study_{tally.n_sweeps}")
            sweep = course.new_sweep(f"postgres-{tally.n_sweeps}", server=server, study=study)
            sweep.start()
            sweep.wait_until_begun()
            while not tally.is_done and sweep.wait(chance.uniform(0.5, 12.0)) is None:
                away(databases, sweep, tally, chance.uniform(2.0, 15.0))
            code = sweep.wait(ENDS_WITHIN_SECONDS)
            if code == 0 and states.UNSENT in sweep.words:
                _sync(sweep, tally)
            tally.check_end(sweep, code)


@contextmanager
def on_postgres(folder: Path) -> Iterator[tuple[PostgresServer, MlflowServer]]:
    """PostgreSQL, and an MLflow server whose database is there."""
    databases = PostgresServer()
    os.environ["PGPASSWORD"] = PASSWORD
    try:
        databases.start()
        databases.create("mlflow")
        server = MlflowServer(folder, database=databases.secret_address("mlflow"))
        server.start()
        try:
            yield databases, server
        finally:
            server.kill()
    finally:
        databases.remove()
        del os.environ["PGPASSWORD"]


def away(databases: PostgresServer, sweep: SweepUnderTest, tally: Tally, seconds: float) -> None:
    """Take PostgreSQL away for so long, by SIGKILL and by its operator in turn."""
    how = ("SIGKILL to PostgreSQL", "pg_ctl stop -m immediate")[tally.n_injected % 2]
    tally.injected(sweep, f"{how}, for {seconds:.1f} s {_at_work(sweep)}")
    if "SIGKILL" in how:
        databases.kill()
    else:
        databases.stop("immediate")
    sweep.wait(seconds)
    databases.start()
    tally.check_readable(sweep)


def _sync(sweep: SweepUnderTest, tally: Tally) -> None:
    tally.check_gone(sweep)
    sweep.sync()
    code = sweep.wait(STOPS_WITHIN_SECONDS)
    if code != 0:
        tally.is_wrong(f"sweep sync has ended with {code}: {_last_words(sweep)}")


def disk(course: Course, chance: random.Random, tally: Tally) -> None:
    """The disk of the sweep's folder has no room for some seconds, from a random moment on."""
    while not tally.is_done:
        small = SmallDisk(course.folder / f"disk-{tally.n_sweeps}")
        try:
            _on_small_disk(course, chance, tally, small)
        finally:
            small.unmount()


def _on_small_disk(course: Course, chance: random.Random, tally: Tally, small: SmallDisk) -> None:
    sweep = course.new_sweep(f"disk-sweep-{tally.n_sweeps}", output=small.folder)
    sweep.start()
    first = chance.uniform(1.0, course.start_up_seconds + 10.0)
    code = sweep.wait(first)
    while code is None and not tally.is_done:
        is_last = tally.n_injected + 1 == tally.n_wanted
        if is_last:  # it is interrupted besides, which takes trials that run
            sweep.wait_until_begun()
            code = sweep.wait(1.0)
            if code is not None:
                break
        seconds, has_begun = chance.uniform(5.0, 20.0), sweep.has_begun
        has_trials = bool(sweep.at_work())  # without one it may have nothing to write just now
        n_words = len(sweep.words)
        tally.injected(sweep, f"the disk is full for {seconds:.1f} s {_at_work(sweep)}")
        small.keep_full(seconds)
        if has_trials and not re.search(r"(?i)\b(room|space|full)\b", sweep.words[n_words:]):
            tally.is_wrong("not a word of the full disk")
        if is_last:
            _interrupt_while_full(sweep, tally)
        small.free()
        tally.check_readable(sweep)
        code = sweep.wait(chance.uniform(1.0, 15.0))
        if (code == 2 and not has_begun) or (code == 130 and is_last):
            tally.check_gone(sweep)
            sweep.start()  # said in words, before anything was begun; or as it was told to
            code = sweep.wait(course.start_up_seconds)
    if code is None:
        code = sweep.wait(ENDS_WITHIN_SECONDS)
    tally.check_end(sweep, code)


def _interrupt_while_full(sweep: SweepUnderTest, tally: Tally) -> None:
    sweep.send(signal.SIGINT)
    code = sweep.wait(STOPS_WITHIN_SECONDS)
    if code != 130:
        tally.is_wrong(f"SIGINT on a full disk: the command has ended with {code}, not 130")


def hang(course: Course, chance: random.Random, tally: Tally) -> None:
    """A worker makes no step any more: stopped as a whole, or, in turn, stuck inside of one."""
    while not tally.is_done:
        if tally.n_injected % 2:
            sweep = _stuck(course, chance, tally)
        else:
            sweep = _stopped(course, chance, tally)
        tally.check_end(sweep, sweep.wait(ENDS_WITHIN_SECONDS))


def _stopped(course: Course, chance: random.Random, tally: Tally) -> SweepUnderTest:
    sweep = course.new_sweep(f"hang-{tally.n_sweeps}", more=STALL)
    sweep.start()
    sweep.wait_until_begun()
    sweep.wait(chance.uniform(0.5, 10.0))
    while not (at_work := sweep.at_work()):  # between two trials
        if sweep.wait(0.1) is not None:
            tally.is_wrong("the sweep has ended before a worker could be stopped")
            return sweep
    number = chance.choice(sorted(at_work))
    tally.injected(sweep, f"SIGSTOP to the worker {at_work[number].pid} of trial {number}")
    at_work[number].suspend()
    tally.check_readable(sweep)
    return sweep


def _stuck(course: Course, chance: random.Random, tally: Tally) -> SweepUnderTest:
    happened = course.folder / f"stuck-{tally.n_sweeps}"
    step = chance.randint(1, 100)
    environment = {
        "PYTHONPATH": f"{STUCK_DIR}:{STUCK_DIR.parents[2]}",
        "SWEEP_FAULTS_STUCK": str(happened),
        "SWEEP_FAULTS_STUCK_STEP": str(step),
    }
    sweep = course.new_sweep(f"hang-{tally.n_sweeps}", more=STALL, environment=environment)
    sweep.start()
    while not happened.exists() and sweep.wait(0.2) is None:
        pass
    tally.injected(sweep, f"a worker is stuck in step {step} {_at_work(sweep)}")
    if not happened.exists():
        tally.is_wrong("no worker got stuck")
    tally.check_readable(sweep)
    return sweep


FAULTS: dict[str, tuple[int, Callable[[Course, random.Random, Tally], None]]] = {
    "driver": (30, driver),
    "one-worker": (30, one_worker),
    "workers": (50, workers),
    "memory": (9, memory),
    "mlflow": (20, mlflow),
    "postgres": (12, postgres),
    "disk": (10, disk),
    "hang": (2, hang),
    "signals": (20, signals),
}
"""How many of each, and what injects them."""


def inject(fault: str, course: Course, *, seed: int, n: int | None = None) -> Tally:
    """Inject `n` faults of a kind, or as many as the campaign has of it."""
    n_usual, function = FAULTS[fault]
    tally = Tally(fault, n_usual if n is None else n, course.reference)
    try:
        function(course, random.Random(f"{fault} {seed}"), tally)
    except Exception as error:  # the other faults still have their turn
        traceback.print_exc()
        tally.is_wrong(f"the campaign itself has failed: {error!r}")
    if tally.n_injected < tally.n_wanted:
        tally.is_wrong(f"only {tally.n_injected} of {tally.n_wanted} could be injected")
    return tally


def _at_work(sweep: SweepUnderTest) -> str:
    numbers = sorted(sweep.at_work())
    return f"(trials {', '.join(map(str, numbers))})" if numbers else "(no trial runs)"


def _has_just_ended(sweep: SweepUnderTest, code: int) -> bool:
    return code == 0 and "trials in " in sweep.words


def _last_words(sweep: SweepUnderTest) -> str:
    return " / ".join(sweep.words.strip().splitlines()[-3:])[:500]
