"""What a sweep rests on goes away for a while: MLflow's server, PostgreSQL, room on the disk."""

from __future__ import annotations

import os
import random
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults import states
from tests.faults.campaign import SweepUnderTest
from tests.faults.course import (
    ENDS_WITHIN_SECONDS,
    STOPS_WITHIN_SECONDS,
    Course,
    at_work,
    last_words,
)
from tests.faults.mlflow_server import MlflowServer
from tests.faults.small_disk import SmallDisk
from tests.faults.tally import Tally
from tests.servers.postgresql import PASSWORD, PostgresServer


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
    tally.injected(sweep, f"{how}, for {seconds:.1f} s {at_work(sweep)}")
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
        tally.is_wrong(f"sweep sync has ended with {code}: {last_words(sweep)}")


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
        tally.injected(sweep, f"the disk is full for {seconds:.1f} s {at_work(sweep)}")
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
