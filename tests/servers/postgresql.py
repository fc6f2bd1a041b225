"""A real PostgreSQL server that can be taken away and brought back."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import psycopg

USER, PASSWORD = "sweeper", "s3cret-of-the-tests"


def programs_dir() -> Path | None:
    """Where `initdb` and `postgres` are; None: nowhere."""
    found = shutil.which("initdb")
    there = [Path(found).parent] if found else []
    there += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((path for path in there if (path / "postgres").exists()), None)


class PostgresServer:
    """`postgres` on a port of this machine, in a folder of its own under the temporary folder.

    The server refuses root, so that it then runs as `nobody`.
    """

    def __init__(self) -> None:
        programs = programs_dir()
        assert programs is not None, "PostgreSQL is not installed"
        self._programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="sweep-postgresql-"))
        self._as_user: dict[str, int | str] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid}
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        password_file = self.folder / "password"
        password_file.write_text(PASSWORD)
        password_file.chmod(0o644)
        self._run(
            *("initdb", "--username", USER, "--pwfile", str(password_file), "--encoding=UTF8"),
            *("--auth=scram-sha-256", "--no-locale", "--no-sync", "--pgdata", str(self.data)),
        )

    @property
    def data(self) -> Path:
        """The server's data directory."""
        return self.folder / "data"

    def address(self, database: str = "sweeps", *, port: int | None = None) -> str:
        """A database's address without a password."""
        return f"postgresql://{USER}@127.0.0.1:{port or self.port}/{database}"

    def secret_address(self, database: str) -> str:
        """A database's address with its password, for programs that know no environment."""
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def start(self, seconds: float = 60) -> None:
        """Start it and wait until it lets us in, after a crash once it has recovered."""
        deadline = time.monotonic() + seconds
        self._launch()
        while True:
            try:
                self._connection("postgres").close()
            except psycopg.OperationalError as error:
                assert time.monotonic() < deadline, f"{error}\n{self.log}"
                assert self._process is not None
                if self._process.poll() is not None:  # one that was killed had not quite gone
                    self._launch()
                time.sleep(0.2)
            else:
                return

    def create(self, database: str) -> str:
        """Make an empty database; returns its address."""
        with self._connection("postgres") as connection:
            connection.autocommit = True
            connection.execute(f'CREATE DATABASE "{database}"')
        return self.address(database)

    def kill(self) -> None:
        """Kill it and all its processes, in the middle of whatever they do."""
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        for process in [server, *server.children(recursive=True)]:
            process.kill()
        self._process.wait()

    def stop(self, mode: str = "immediate") -> None:
        """Stop it as its operator does; `immediate` leaves the recovery to the next start."""
        self._run("pg_ctl", "stop", "--pgdata", str(self.data), "--mode", mode)
        assert self._process is not None
        self._process.wait()

    def remove(self) -> None:
        """End it for good."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
        shutil.rmtree(self.folder)

    @property
    def log(self) -> str:
        """What it has said."""
        return (self.folder / "log.txt").read_text()

    def execute(self, database: str, sql: str) -> list[tuple[object, ...]]:
        """Run SQL; returns the rows, if it has any."""
        with self._connection(database) as connection:
            done = connection.execute(sql.encode())
            return done.fetchall() if done.description else []

    def _connection(self, database: str) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self.secret_address(database), connect_timeout=5)

    def _launch(self) -> None:
        command = [str(self._programs / "postgres"), "-D", str(self.data), "-p", str(self.port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-k", str(self.folder)]
        # Processes are killed here, not machines: what was written to the kernel stays.
        command += ["-c", "fsync=off", "-c", "shared_buffers=16MB"]
        with (self.folder / "log.txt").open("a") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True,
                **self._as_user,  # type: ignore[call-overload]
            )  # fmt: skip

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._programs / program), *arguments], check=True, cwd=self.folder,
            stdout=subprocess.DEVNULL, **self._as_user,  # type: ignore[call-overload]
        )  # fmt: skip
