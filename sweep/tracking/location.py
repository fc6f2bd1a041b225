"""Where a sweep is tracked: an MLflow server's address, or a database, without its secrets."""

import contextlib
import json
import os
import re
import shlex
import shutil
import sqlite3
import uuid
from pathlib import Path

from sweep.errors import TrackingError
from sweep.folder import layout
from sweep.storage.copied import copy_into
from sweep.tracking.saved_view import address
from trials.foreign_text import without_secrets
from trials.parent import child_command
from trials.whole_file import write_whole


def ui_command(uri: str, port: int) -> list[str]:
    """Return the command that shows the database `uri` at http://127.0.0.1:`port`, to this machine.

    It ends with its standard input.

    Raises:
        TrackingError: `uri` is a server, which has a UI of its own.
    """
    if uri.startswith(("http://", "https://")):
        raise TrackingError(
            f"sweep ui needs the sweep's own database, but this sweep is on a server, "
            f"{without_secrets(uri)}. Open that address in a browser."
        )
    # The host names stop DNS rebinding; any port, because of tunnels: ssh -L 8080:localhost:5000.
    hosts = "127.0.0.1:*,localhost:*"
    words = child_command("mlflow", "server", "--backend-store-uri", uri)
    words += ["--no-serve-artifacts", "--workers", "1", "--uvicorn-opts", "--log-level warning"]
    return [*words, "--host", "127.0.0.1", "--port", str(port), "--allowed-hosts", hosts]


def copy_to_look_at(output_dir: Path, uri: str, to: Path) -> str:
    """Copy what the UI needs of a sweep that must not be written; return the copy's address.

    Raises:
        TrackingError: The database cannot be read.
    """
    database, copy = Path(uri.removeprefix("sqlite:///")), to / layout.MLFLOW_DATABASE
    try:
        with contextlib.closing(sqlite3.connect(copy)) as target:
            copy_into(target, database)
    except sqlite3.Error as error:
        raise TrackingError(f"{database}: cannot be read: {error}.") from None
    with contextlib.suppress(FileNotFoundError):
        shutil.copyfile(output_dir / layout.MLFLOW_SWEEP_ID, to / layout.MLFLOW_SWEEP_ID)
    return f"sqlite:///{copy}"


def page_of(server: str, experiment_id: str, output_dir: Path) -> str:
    """Return the address of the sweep's own view of its runs, on an MLflow server."""
    return f"{server.rstrip('/')}/{address(experiment_id, sweep_id(output_dir))}"


def sweep_id(output_dir: Path) -> str:
    """Return what tells this sweep's runs from those of others on the server; it is made once."""
    path = output_dir / layout.MLFLOW_SWEEP_ID
    if not path.exists():
        write_whole(path, f"{uuid.uuid4()}\n")
    return path.read_text().strip()


def checked(uri: str) -> str:
    """Return an address that MLflow can be asked at, by its form."""
    if not uri.startswith(("sqlite:///", "http://", "https://")):
        raise TrackingError(
            f"An MLflow address must start with http://, https:// or sqlite:///, not "
            f"{without_secrets(uri)}. Write it in full, such as http://localhost:5000."
        )
    return uri


def own_database(output_dir: Path) -> str:
    """Return the address of the database that a sweep has where no server is named."""
    return f"sqlite:///{output_dir.resolve() / layout.MLFLOW_DATABASE}"


def tracked_at(output_dir: Path) -> str | None:
    """Return the address, without secrets, that has the sweep's runs; None before it has any."""
    try:
        uri = str(json.loads((output_dir / layout.MLFLOW).read_text())["uri"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
    own, named = output_dir.resolve() / layout.MLFLOW_DATABASE, Path(uri.removeprefix("sqlite:///"))
    # Where it lay before it was moved; or the database of the sweep that this is a copy of.
    is_other = not os.access(named, os.F_OK) or os.access(named.parent / layout.SWEEP, os.F_OK)
    return f"sqlite:///{own}" if is_other and uri.startswith("sqlite:///") and own.exists() else uri


def artifacts_dir(uri: str, output_dir: Path) -> Path | None:
    """Return where the artifacts of a sweep's own database lie; a server has its own place."""
    return (output_dir / layout.ARTIFACTS).resolve() if uri.startswith("sqlite:") else None


def sync_command(output_dir: Path) -> str:
    """Return the command that sends what a sweep has in its journal."""
    return command("sync", output_dir)


def command(verb: str, output_dir: Path) -> str:
    """Return a command about a sweep, as it can be typed: `sweep ui NAME --output …`."""
    output = str(output_dir.parent)
    elsewhere = f" --output {shlex.quote(output)}" if output != "sweeps" else ""
    return f"sweep {verb} {output_dir.name}{elsewhere}"


def mend(uri: str, cause: str) -> str:
    """Return what a user can do about an address that does not work."""
    if not uri.startswith("http"):
        return "Name a file that can be written, or a server's address."
    if re.search(r"\b(401|403)\b|UNAUTH|PERMISSION", cause):
        return "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or _TOKEN)."
    return "Start that server, correct its address, or name none: a database needs no server."
