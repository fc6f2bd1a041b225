"""A PostgreSQL server for the tests of this folder, and an empty database for each."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.servers.postgresql import PASSWORD, PostgresServer, programs_dir


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    if programs_dir() is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def database(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty database; its password is in the environment."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    return postgres.create(f"test_{uuid.uuid4().hex}")
