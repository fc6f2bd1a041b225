"""Where a sweep is tracked: an MLflow server's address, or a database, without its secrets."""

import os
import re
import shlex
import shutil
import sqlite3
import uuid
from contextlib import closing, suppress
from pathlib import Path

from sweep.errors import TrackingError
from sweep.folder import layout
from sweep.storage.copied import copy_into
from sweep.storage.of_folder import study_name
from sweep.storage.own_file import is_lost, lost_how, why_unusable
from sweep.storage.sqlite import SCHEMES, address_of, file_of
from sweep.tracking.saved_view import address
from sweep.tracking.sqlite_tables import follow_artifacts
from trials.foreign_text import without_secrets
from trials.parent import child_command
from trials.trial_folder import read_json
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


def page_of(server: str, experiment_id: str, output_dir: Path) -> str:
    """Return the address of the sweep's own view of its runs, on an MLflow server."""
    return f"{server.rstrip('/')}/{address(experiment_id, sweep_id(output_dir))}"


def sweep_id(output_dir: Path) -> str:
    """Return what tells this sweep's runs from those of others on the server; it is made once."""
    path = output_dir / layout.MLFLOW_SWEEP_ID
    if not path.exists():
        write_whole(path, f"{uuid.uuid4()}\n")
    if found := path.read_text(encoding="utf-8", errors="replace").strip():
        return found
    raise TrackingError(
        f"{path}: must hold what tells the sweep's runs in MLflow from others, but is empty. "
        f"Restore it (the tag `sweep.id` of its run has it), or delete it: its runs begin anew."
    )


def checked(
    uri: str,
    what: str = "An MLflow address",
    mend: str = "Write it in full, such as http://localhost:5000.",
) -> str:
    """Return an address that MLflow can be asked at, by its form.

    Args:
        what: Has the address, and must be mended so.
    """
    if not is_spoken(uri):
        raise TrackingError(
            f"{what} must start with http://, https:// or sqlite:///, not "
            f"{without_secrets(uri)}. {mend}"
        )
    file = None if "?" in uri else file_of(uri)
    return uri if file is None else address_of(file.absolute())  # in one form, to be compared


def is_spoken(uri: str) -> bool:
    """Whether a sweep can be at such an address."""
    return uri.startswith((*SCHEMES, "http://", "https://"))


def own_database(output_dir: Path) -> str:
    """Return the address of the database that a sweep has where no server is named."""
    return address_of(output_dir.resolve() / layout.MLFLOW_DATABASE)


def where(output_dir: Path) -> dict[str, str] | None:
    """Return the `uri` that has a sweep's runs, without secrets, and their `experiment_id`.

    None: there are none yet.

    Raises:
        TrackingError: mlflow.json cannot be read.
    """
    return read_json(
        output_dir / layout.MLFLOW,
        dict,
        holds="where the sweep is in MLflow",
        mend="Restore it, or delete it: the sweep's command writes it again.",
        keys=("uri", "experiment_id"),
        error=TrackingError,
    )


def tracked_at(output_dir: Path) -> str | None:
    """Return the address, without secrets, that has the sweep's runs; None before it has any.

    Its own database is where the folder is now, whether that was moved or copied.
    """
    if (found := where(output_dir)) is None:
        return None
    if (file := file_of(uri := found["uri"])) is None:
        return uri
    here = output_dir.resolve()
    own = (here.parent if here.name == layout.CONFIRM else here) / layout.MLFLOW_DATABASE
    # Where it lay before it was moved; or the database of the sweep that this is a copy of.
    is_other = not os.access(file, os.F_OK) or os.access(file.parent / layout.SWEEP, os.F_OK)
    return address_of(own if is_other and own.exists() else file)


def experiment_of(output_dir: Path) -> str | None:
    """Return the name of the experiment that has a sweep's runs; None: there are none yet.

    A version that noted none gave it the sweep's own.
    """
    found = where(output_dir)
    return None if found is None else found.get("experiment", study_name(output_dir))


def see_tracked(output_dir: Path, uri: str) -> None:
    """See that a sweep's runs in MLflow can go on where they are.

    Args:
        uri: Where they shall go on.

    Raises:
        TrackingError: A file that says where they are, or holds them, is gone or broken.
    """
    known = tracked_at(output_dir)
    if (output_dir / layout.MLFLOW_SWEEP_ID).exists():
        sweep_id(output_dir)
    if known is None or known != without_secrets(uri):
        return
    if (file := file_of(known)) is None:
        return
    if why := lost_how(file) if is_lost(file) else why_unusable(file):
        raise TrackingError(
            f"{file}: must hold the sweep's runs in MLflow, but {why}. Restore it from a copy; or "
            f"remove it and {output_dir / layout.MLFLOW}: later trials begin a new one."
        )


def to_be_shown(output_dir: Path) -> tuple[str, str]:
    """Return the address and the experiment that `sweep ui` shows, with the files where they are.

    Raises:
        TrackingError: As `where` and `see_tracked`.
    """
    found, uri = where(output_dir), tracked_at(output_dir)
    assert found is not None and uri is not None, "mlflow.json is there"
    see_tracked(output_dir, uri)
    name = experiment_of(output_dir) or study_name(output_dir)
    database, place = file_of(uri), artifacts_dir(uri, output_dir, name)
    if database is not None and place is not None:
        with suppress(sqlite3.Error):  # it may be read alone: then its files are where they were
            follow_artifacts(database, name, place)
    return uri, found["experiment_id"]


def may_write(output_dir: Path) -> bool:
    """Whether this user may write the database that has a sweep's runs; of a server always."""
    uri = tracked_at(output_dir)
    file = None if uri is None else file_of(uri)
    return file is None or all(os.access(path, os.W_OK) for path in (file, file.parent))


def copy_to_look_at(output_dir: Path, to: Path) -> tuple[str, str]:
    """Copy what the UI needs of a sweep that must not be written; else as `to_be_shown`.

    Raises:
        TrackingError: The database cannot be read.
    """
    found, uri = where(output_dir), tracked_at(output_dir)
    assert found is not None and uri is not None, "mlflow.json is there"
    database, copy = file_of(uri), to / layout.MLFLOW_DATABASE
    name = experiment_of(output_dir) or study_name(output_dir)
    assert database is not None, "a server's database is not looked at here"
    try:
        with closing(sqlite3.connect(copy)) as target:
            copy_into(target, database)
        if (place := artifacts_dir(uri, output_dir, name)) is not None:
            follow_artifacts(copy, name, place)
    except (sqlite3.Error, OSError) as error:
        raise TrackingError(f"{database}: cannot be read: {error}.") from None
    with suppress(FileNotFoundError):
        shutil.copyfile(output_dir / layout.MLFLOW_SWEEP_ID, to / layout.MLFLOW_SWEEP_ID)
    return address_of(copy), found["experiment_id"]


def artifacts_dir(uri: str, output_dir: Path, experiment: str) -> Path | None:
    """Return where the artifacts of an experiment in a database lie; a server has its own place.

    Beside the database where other sweeps may have that experiment too.
    """
    if (file := file_of(uri)) is None:
        return None
    is_own = experiment == study_name(output_dir)
    return ((output_dir if is_own else file.parent) / layout.ARTIFACTS).resolve()


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
