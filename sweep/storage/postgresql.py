"""A study on a PostgreSQL server: its address, its one connection, the lock of its one writer."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import URL, NullPool, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from sweep.errors import StudyAway, StudyError
from sweep.storage.patient import Patience, PatientStorage, cause_of
from trials.foreign_text import without_secrets

if TYPE_CHECKING:
    import psycopg

START_SECONDS = 20.0
"""A server that starts up, or a network that wakes, is waited for so long before a sweep begins."""
RETRY_SECONDS = 1.0
LOCK_SECONDS = 2.0
"""The server may take a moment to see that a process has died."""
_DIALECT = "postgresql+psycopg"
_SECRETS = ("password", "sslpassword")
# Both sides notice in about a minute that the other machine, or the way to it, is gone. By default
# a server would keep the lock of a machine that lost its power for two hours.
_CLIENT = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # ms
}
_SERVER = """
SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3;
SET tcp_user_timeout = 60000
"""
_HOLDER = """
SELECT pid, application_name FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND objsubid = 1
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (classid::bigint << 32) | objid::bigint = %s
"""
_MENDS = {
    r"password authentication failed|no password supplied": "Set PGPASSWORD, or write ~/.pgpass.",
    r'database ".*" does not exist': "Correct it, or create it: createdb NAME.",
    r'role ".*" does not exist|not permitted to log in': "Correct the user of the address.",
    r"no pg_hba.conf entry": "Let this machine in by a line in the server's pg_hba.conf.",
    r"permission denied": "Let the database belong to that user, or GRANT CREATE ON SCHEMA public.",
    r"resolve host|translate host name|Name or service not known": "Correct the address.",
}
"""What no waiting helps against. A server may speak another language; then it is waited for."""


class StudyTaken(StudyAway):
    """Another process writes to the study."""


@dataclass(frozen=True, slots=True)
class Address:
    """A database on a server. In words, in files and in comparisons it has no password."""

    url: URL

    @classmethod
    def parse(cls, given: str) -> Address:
        """Take an address as it was written.

        Raises:
            StudyError: It is no address of a PostgreSQL database.
        """
        try:
            import psycopg  # noqa: F401
        except ImportError as error:
            raise StudyError(
                f"--study: a study on PostgreSQL needs psycopg ({error}). Install it: "
                f"pip install -c constraints.txt -e '.[postgresql]'"
            ) from None
        with suppress(ArgumentError, ValueError):  # of a port that is no number
            url = make_url(given)
            if url.drivername in ("postgresql", "postgres", _DIALECT) and url.database:
                return cls(url.set(drivername="postgresql"))
        raise StudyError(
            f"--study {without_secrets(given)}: must be postgresql://host/database, with "
            f"user@ before the host if the server asks for one."
        )

    def __str__(self) -> str:
        parts = self.url.difference_update_query(_SECRETS)._asdict()
        return URL.create(**{**parts, "password": None}).render_as_string()

    def connect(self, application_name: str = "sweep") -> psycopg.Connection[Any]:
        """Open a connection; passwords that the address lacks come as libpq finds them.

        Raises:
            psycopg.Error: It cannot be opened.
        """
        import psycopg

        dialect = self.url.set(drivername=_DIALECT).get_dialect()()
        _, arguments = dialect.create_connect_args(self.url)
        return psycopg.connect(**{**_CLIENT, **arguments, "application_name": application_name})

    def reader(self) -> RDBStorage:
        """Open the studies of the database to be read, without a lock and without making tables."""
        return RDBStorage(
            f"{_DIALECT}://",
            {"creator": self.connect, "poolclass": NullPool},
            skip_compatibility_check=True,
            skip_table_creation=True,
        )

    def writer(self, name: str, patience: Patience) -> PatientStorage:
        """Open a study, to be written by this process alone; make the tables where there are none.

        The storage has one connection, and each that it opens takes the study's lock first. So
        nothing is written without the lock, also after the server was restarted, and a process that
        dies leaves none behind.

        Raises:
            StudyTaken: Another process writes to the study.
            StudyError: The database cannot be used; says why, and the mend.
        """
        writer = _Writer(self, name)
        # Optuna opens a second connection while it makes its tables, so they are there before.
        one = {"creator": writer.connect, "pool_size": 1, "max_overflow": 0}

        def open_it() -> PatientStorage:
            _make_tables(self)
            return PatientStorage(
                f"{_DIALECT}://",
                patience,
                engine_kwargs=one,
                skip_compatibility_check=True,
                skip_table_creation=True,
            )

        return self._opened(open_it, patience.say, time.monotonic() + START_SECONDS)

    def _opened(
        self, open_it: Callable[[], PatientStorage], say: Callable[[str], None], deadline: float
    ) -> PatientStorage:
        has_failed = False
        while True:
            try:
                return open_it()
            except (SQLAlchemyError, StorageInternalError) as error:
                cause = cause_of(error)
                mend = next((m for words, m in _MENDS.items() if re.search(words, cause)), None)
                if mend is None and time.monotonic() > deadline:
                    mend = "Start that server, or correct the address."
                if mend is not None:
                    raise StudyError(f"--study {self}: cannot be used: {cause} {mend}") from None
                if not has_failed:
                    say(f"The study is not reachable yet: {cause} Waiting …")
                has_failed = True
                time.sleep(RETRY_SECONDS)
            except RuntimeError as error:  # of another version of Optuna
                raise StudyError(f"--study {self}: cannot be used: {error}") from None


def _make_tables(address: Address) -> None:
    options: dict[str, Any] = {"creator": address.connect, "poolclass": NullPool}
    engine = create_engine(f"{_DIALECT}://", **options)
    with engine.connect() as connection:  # two sweeps that begin at once would both make them
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _key("tables")})
        RDBStorage(f"{_DIALECT}://", options)


def _key(subject: str) -> int:
    """An advisory lock's number, of 64 bits."""
    return int.from_bytes(hashlib.sha256(f"sweep: {subject}".encode()).digest()[:8], signed=True)


class _Writer:
    """Opens connections that hold the lock of a study, for one process."""

    def __init__(self, address: Address, name: str) -> None:
        self._address = address
        self._name = name
        self._key = _key(f"study {name}")
        # Within the 63 bytes that PostgreSQL keeps; the mark tells apart processes of containers.
        self._me = f"sweep {os.getpid()}-{uuid.uuid4().hex[:8]} {socket.gethostname()}"[:63]

    def connect(self) -> psycopg.Connection[Any]:
        connection = self._address.connect(self._me)
        try:
            connection.autocommit = True  # else pg_stat_activity would not change between two looks
            connection.execute(_SERVER)
            self._take_lock(connection)
            connection.autocommit = False
        except BaseException:
            connection.close()
            raise
        return connection

    def _take_lock(self, connection: psycopg.Connection[Any]) -> None:
        deadline = time.monotonic() + LOCK_SECONDS
        while not _one(connection, "SELECT pg_try_advisory_lock(%s)", self._key)[0]:
            pid, holder = _one(connection, _HOLDER, self._key) or (None, None)
            if holder == self._me:  # our own, broken, and the server has not seen it yet
                connection.execute("SELECT pg_terminate_backend(%s)", [pid])
            elif holder is not None and time.monotonic() > deadline:
                raise StudyTaken(
                    f"{self._name}: {_by_whom(holder)} writes to this study at {self._address}. "
                    f"Wait for it, end it, or use another --name. (If that machine is gone, its "
                    f"connection ends after about a minute.)"
                )
            time.sleep(0.1)


def _one(connection: psycopg.Connection[Any], query: str, key: int) -> Any:
    return connection.execute(query, [key]).fetchone()


def _by_whom(holder: str) -> str:
    found = re.fullmatch(r"sweep (\d+)-\w+ (.+)", holder)
    return f"process {found[1]} on {found[2]}" if found else f"another process ({holder})"
