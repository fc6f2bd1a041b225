"""A study on a real PostgreSQL server, which is killed, restarted, and cut off in mid-commit."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

import sweep.storage.patient
import sweep.storage.postgresql
from sweep.errors import StudyAway, StudyError
from sweep.storage.mirror import InMemory
from sweep.storage.optuna_private import put_back, storage_of, trial_id_of
from sweep.storage.patient import Patience, PatientStorage
from sweep.storage.postgresql import Address, StudyTaken
from tests.servers.postgresql import PASSWORD, PostgresServer
from tests.servers.proxy import Proxy
from trials.foreign_text import without_secrets

FOR_EVER = Patience(is_over=lambda: False)
UNTIL_IT_FAILS = Patience()


Write = Callable[..., PatientStorage]


@pytest.fixture
def write() -> Iterator[Write]:
    """Opens the study of an address to be written, and closes its connection in the end."""
    opened: list[PatientStorage] = []

    def writer(
        address: str, name: str = "tiny", patience: Patience = UNTIL_IT_FAILS
    ) -> PatientStorage:
        opened.append(Address.parse(address).writer(name, patience))
        return opened[-1]

    yield writer
    for storage in opened:
        storage.engine.dispose()


@pytest.fixture
def proxy(postgres: PostgresServer) -> Iterator[Proxy]:
    proxy = Proxy(postgres.port)
    yield proxy
    proxy.close()


def through(proxy: Proxy, address: str) -> str:
    return f"postgresql://sweeper@127.0.0.1:{proxy.port}/{address.rpartition('/')[2]}"


def everything(study: optuna.Study) -> list[FrozenTrial]:
    """A little of all that a sweep does to a study; returns the trials."""
    study.set_user_attr("task", {"seed": 0})
    study.enqueue_trial({"rank": 8})
    space = {
        "rank": CategoricalDistribution([8, 16]),
        "learning_rate": FloatDistribution(1e-4, 1e-3),
    }
    for number in range(3):
        trial = study.ask(space)
        assert trial.number == number
        trial.set_user_attr("hyperparameters", trial.params)
        trial.report(2.0, 1)
        trial.report(1.5, 2)
        trial.set_constraint("memory", -1.0)
        study.set_user_attr("gpu_seconds", 1.5 * number)
        if number == 1:
            put_back(study, study.trials[number])
            trial = study.ask(space)
            assert trial.number == number
        study.tell(trial, 1.5)
    study.tell(study.ask(), state=TrialState.PRUNED)
    study.tell(study.ask(), state=TrialState.FAIL)
    storage: Any = getattr(
        storage_of(study), "_backend", storage_of(study)
    )  # Optuna's cache is before it
    ended = create_trial(state=TrialState.COMPLETE, value=1.0, user_attrs={"outcome": "completed"})
    storage.end_trial(trial_id_of(study.ask()), ended)
    return study.trials


def comparable(trial: FrozenTrial) -> dict[str, object]:
    names = "number state values params user_attrs system_attrs intermediate_values distributions"
    return {name: getattr(trial, name) for name in names.split()}


def make_study(storage: optuna.storages.BaseStorage | None = None) -> optuna.Study:
    sampler = optuna.samplers.RandomSampler(seed=0)
    return optuna.create_study(
        study_name="tiny", storage=storage or InMemory(), sampler=sampler, load_if_exists=True
    )


@pytest.mark.parametrize("cut", ["before", "after"])
@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_commit_that_breaks_is_done_once(
    write: Write, database: str, proxy: Proxy, cut: str, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep.storage.patient, "RETRY_SECONDS", 0.0)
    storage = write(through(proxy, database), patience=FOR_EVER)
    turn = itertools.count(first)
    proxy.cuts = lambda: cut if next(turn) % 3 == 2 else None
    there = everything(make_study(storage))
    assert proxy.n_cut > 30
    right = everything(make_study())
    assert [comparable(trial) for trial in there] == [comparable(trial) for trial in right]


def test_the_servers_side_of_a_broken_connection_does_not_keep_us_out(
    write: Write, database: str, proxy: Proxy, postgres: PostgresServer
) -> None:
    storage = write(through(proxy, database), patience=FOR_EVER)
    study = make_study(storage)
    cuts = iter(["unseen"])
    proxy.cuts = lambda: next(cuts, None)
    study.set_user_attr("a", 1)
    assert proxy.n_cut == 1
    assert study.user_attrs == {"a": 1}
    name = database.rpartition("/")[2]
    sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'sweep %' AND datname="
    assert postgres.execute("postgres", f"{sql}'{name}'") == [(1,)]


@pytest.mark.parametrize("mode", ["kill", "immediate", "fast"])
def test_reads_and_writes_wait_for_a_server_that_is_away(
    write: Write, database: str, postgres: PostgresServer, mode: str
) -> None:
    said: list[str] = []
    storage = write(database, patience=Patience(said.append, lambda: False))
    study = make_study(storage)
    for use in (study.ask, lambda: study.trials):
        said.clear()
        postgres.kill() if mode == "kill" else postgres.stop(mode)
        back = threading.Timer(1.5, postgres.start)
        back.start()
        use()
        back.join()
        assert len(said) == 2
        assert said[0].startswith("The study cannot be read: ")
        assert said[1] == "The study can be read again."
    assert [trial.number for trial in study.trials] == [0]


def test_nobody_waits_for_a_server_once_the_sweep_is_to_end(
    write: Write, database: str, postgres: PostgresServer
) -> None:
    study = make_study(write(database))
    postgres.stop("fast")
    try:
        with pytest.raises(StudyAway, match=r"cannot be read: .*Its data is safe"):
            study.ask()
    finally:
        postgres.start()


HOLDS = """
import sys, time
from sweep.storage.patient import Patience
from sweep.storage.postgresql import Address
storage = Address.parse(sys.argv[1]).writer("tiny", Patience())
print("held", flush=True); time.sleep(60)
"""


def test_a_second_writer_is_refused_by_name_and_a_dead_one_is_not_in_the_way(
    write: Write, database: str
) -> None:
    holding = subprocess.Popen(
        [sys.executable, "-c", HOLDS, database], stdout=subprocess.PIPE, text=True
    )
    assert holding.stdout is not None
    assert holding.stdout.readline() == "held\n"
    with pytest.raises(StudyTaken) as refused:
        write(database)
    words = f"process {holding.pid} on {socket.gethostname()} writes to this study"
    assert words in str(refused.value)
    write(database, "another")
    os.kill(holding.pid, signal.SIGKILL)
    holding.communicate()
    write(database)


def test_a_writer_notices_who_came_in_while_the_server_was_restarted(
    write: Write, database: str, postgres: PostgresServer
) -> None:
    storage = write(database, patience=FOR_EVER)
    study = make_study(storage)
    postgres.kill()
    postgres.start()
    other = write(database)
    with pytest.raises(StudyTaken, match=f"process {os.getpid()} on"):
        study.ask()
    other.engine.dispose()
    assert study.ask().number == 0


def test_two_sweeps_may_make_the_tables_at_once(write: Write, database: str) -> None:
    made: list[object] = []
    threads = [
        threading.Thread(target=lambda n: made.append(write(database, f"sweep {n}")), args=(n,))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("/test_", "/no_", r'database "no_\w+" does not exist. .*createdb'),
        ("sweeper@", "sweeper:wrong@", "password authentication failed.*Set PGPASSWORD"),
        ("127.0.0.1", "no-such-host.invalid", "Correct the address"),
    ],
)
def test_what_waiting_does_not_help_against_is_said_at_once(
    write: Write, database: str, old: str, new: str, words: str
) -> None:
    began = time.monotonic()
    with pytest.raises(StudyError, match=words) as refused:
        write(database.replace(old, new))
    assert time.monotonic() - began < 15
    assert "wrong" not in str(refused.value)


def test_a_missing_password_is_said(
    write: Write, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD")
    monkeypatch.setenv("PGPASSFILE", "/nowhere")
    with pytest.raises(StudyError, match="no password supplied. Set PGPASSWORD"):
        write(database)


def test_a_user_who_may_make_no_tables_is_told_the_mend(
    write: Write, database: str, postgres: PostgresServer
) -> None:
    name = database.rpartition("/")[2]
    user = f"guest_of_{name}"
    postgres.execute(name, f"CREATE ROLE {user} LOGIN PASSWORD '{PASSWORD}'")
    with pytest.raises(StudyError, match="permission denied for schema public. Let the database"):
        write(database.replace("sweeper", user))


def test_a_server_that_starts_is_waited_for_and_one_that_does_not_is_said(
    write: Write, database: str, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    postgres.kill()
    monkeypatch.setattr(sweep.storage.postgresql, "START_SECONDS", 1.0)
    with pytest.raises(StudyError, match="refused.* Start that server, or correct the address"):
        write(database)
    monkeypatch.setattr(sweep.storage.postgresql, "START_SECONDS", 60.0)
    back = threading.Timer(1.5, postgres.start)
    back.start()
    write(database, patience=Patience(said.append))
    back.join()
    assert len(said) == 1
    assert said[0].startswith("The study is not reachable yet: ")


@pytest.mark.parametrize(
    "given",
    ["mysql://a:secret@h/d", "sweeps", "postgresql://a:secret@h", "postgresql://a:secret@h:x/d"],
)
def test_another_address_is_refused_without_its_password(given: str) -> None:
    with pytest.raises(StudyError, match=r"must be postgresql://host/database"):
        Address.parse(given)
    with pytest.raises(StudyError) as refused:
        Address.parse(given)
    assert "secret" not in str(refused.value)
    # The command takes out what stands before an @ of any address in it.
    assert "user@" in without_secrets(str(refused.value))


def test_an_address_in_words_has_no_password() -> None:
    given = "postgres://me:s%40cret@host:6543/db?sslmode=require&password=second&sslpassword=third"
    assert str(Address.parse(given)) == "postgresql://me@host:6543/db?sslmode=require"


def test_a_password_in_the_address_works(
    write: Write, database: str, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD")
    address = postgres.secret_address(database.rpartition("/")[2])
    storage = write(address)
    assert PASSWORD not in storage.url
    assert make_study(storage).trials == []


def test_a_missing_driver_is_said_with_the_command_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StudyError, match=r"needs psycopg .*pip install .*\[postgresql\]"):
        Address.parse("postgresql://me@host/db")
