"""MLflow's tables in a sqlite file: all of them or none, whenever the process that makes them dies.

MLflow makes its tables in some forty steps of alembic, and sqlite keeps each step before alembic
notes it. A process killed in between would leave a file that no MLflow opens again.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sqlalchemy.exc import DBAPIError

LOCK_SECONDS = 10.0
"""How long another process may hold the database, as one does that makes the tables."""


def make_tables(path: Path) -> None:
    """See that a database can be written, and make MLflow's tables in an empty or new one.

    The tables are made in memory and come to the file in one transaction; of two processes that
    begin the same file, one makes them.

    Raises:
        OSError, sqlite3.Error: It cannot be written, or is no database. MLflow itself would try
            such a file for a minute and a half.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        if not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in _tables():
                database.execute(statement)
            at = (path.resolve().parent / "mlruns" / "0").as_uri()
            database.execute("UPDATE experiments SET artifact_location = ?", [at])
        database.execute("COMMIT")


_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)
"""Where MLflow keeps the whole address of a file."""


def follow_artifacts(database: Path, experiment: str, to: Path) -> None:
    """Have the files of an experiment be those of the sweep's folder, wherever that is by now.

    Args:
        to: Its folder of artifacts. Of a database that several sweeps share, the addresses stay
            as long as there is a folder where they say.

    Raises:
        sqlite3.Error: The database cannot be written.
    """
    query, now = "SELECT artifact_location FROM experiments WHERE name = ?", to.as_uri()
    with closing(sqlite3.connect(database, timeout=LOCK_SECONDS)) as tables, tables:
        before = (tables.execute(query, [experiment]).fetchone() or [now])[0]
        is_own = database.resolve().parent == to.parent
        if before == now or not before.startswith("file:"):
            return
        if not is_own and Path(unquote(urlsplit(before).path)).parent.exists():
            return
        for table, column in _ADDRESSES:
            tables.execute(
                f"UPDATE {table} SET {column} = :now || substr({column}, :n + 1) "
                f"WHERE {column} = :before OR substr({column}, 1, :n + 1) = :before || '/'",
                {"now": now, "before": before, "n": len(before)},
            )


def unusable(error: DBAPIError) -> OSError:
    """What to say of a database that MLflow does not open: an upgrade of it was cut off, say."""
    cause = str(error.orig).strip().splitlines()[0]
    return OSError(
        f"MLflow cannot migrate its tables ({cause}); a process was probably killed doing so. "
        f"Restore a copy of the file, or delete it if it holds no runs."
    )


def _tables() -> list[str]:
    """The statements that make MLflow's tables, of the release that is installed."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    # Of its default experiment MLflow writes the place as Python quotes it: a path of the current
    # folder with both kinds of quotes is no SQL.
    store = SqlAlchemyStore("sqlite:///:memory:", "mlflow-artifacts:/")
    connection = store.engine.raw_connection()
    try:
        made = list(connection.driver_connection.iterdump())
    finally:
        connection.close()
        store.engine.dispose()
    return made[1:-1]  # without its own BEGIN and COMMIT
