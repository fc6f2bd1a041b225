"""Hand out what a sweep has made: `python -m sweep.cluster.on_head.archive NAME OUTPUT`.

Writes one archive into the logs of Ray's session, whence the dashboard gives it out to whoever has
the token, says so in one line of JSON, and takes it away again when it is told to end.
"""

import hashlib
import json
import logging
import signal
import sqlite3
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import ray

from sweep.cluster.on_head.answer import give_answer
from sweep.folder import layout
from trials.trial_folder import ANSWERS, CONFIG, LOG, RESULT
from trials.unfinished import scratch_dir

LONGEST_SECONDS = 3600.0
"""An archive that nobody takes away lies in the logs no longer than this."""
WHOLE = (layout.SPACE, layout.REPORT, "report.md", layout.TIMINGS, layout.MLFLOW)
DATABASES = (layout.STUDY, layout.MLFLOW_DATABASE)
OF_TRIALS = (CONFIG, RESULT, LOG)


def archive(folder: Path, target: Path) -> None:
    """Write best/, the reports, the databases and the small files of all trials.

    The folder may belong to a sweep that runs: files that vanish meanwhile are left out, save those
    of best/.

    Raises:
        OSError: best/ was exchanged meanwhile.
    """
    from sweep.errors import StudyError
    from sweep.results.reading import read_sweep
    from sweep.results.status import as_json
    from sweep.storage.copied import copy_into

    with scratch_dir() as scratch, tarfile.open(target, "w") as tar:
        for path in sorted((folder / layout.BEST).rglob("*")):
            if path.is_file():
                _add(tar, path, path.relative_to(folder))
        for path in _small(folder):
            try:
                _add(tar, path, path.relative_to(folder))
            except OSError:
                continue
        for name in DATABASES:
            if (folder / name).is_file():
                with closing(sqlite3.connect(Path(scratch) / name)) as copy:
                    copy_into(copy, folder / name)
                _add(tar, Path(scratch) / name, Path(name))
        with suppress(StudyError):  # its server is away, or it has not begun
            status = Path(scratch) / "status.json"
            found = as_json(read_sweep(folder))
            status.write_text(json.dumps(found, indent=1, ensure_ascii=False))
            _add(tar, status, Path("status.json"))


def _small(folder: Path) -> Iterator[Path]:
    for name in WHOLE:
        if (folder / name).is_file():
            yield folder / name
    yield from sorted((folder / layout.ANSWERS).glob(f"*/{ANSWERS}"))
    for trial in sorted((folder / layout.TRIALS).glob("*")):
        yield from (trial / name for name in OF_TRIALS if (trial / name).is_file())


def _add(tar: tarfile.TarFile, path: Path, name: Path) -> None:
    """Add a file's contents: the archive holds no links."""
    with path.open("rb") as file:
        about = tarfile.TarInfo(name.as_posix())
        about.size, about.mtime = path.stat().st_size, int(path.stat().st_mtime)
        tar.addfile(about, file)


def main(name: str, output: Path) -> None:
    """Offer the archive until SIGTERM."""
    told = threading.Event()
    folder = output.expanduser() / name
    if not (folder / layout.STUDY).is_file() and not (folder / layout.SWEEP).is_file():
        give_answer({"problem": f"{folder}: no such sweep on the cluster's head."})
        return
    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    with scratch_dir(logs) as place:
        target = Path(place) / "sweep.tar"
        archive(folder, target)
        with target.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        give_answer(
            {
                "node_id": ray.get_runtime_context().get_node_id(),
                "file": target.relative_to(logs).as_posix(),
                "n_bytes": target.stat().st_size,
                "sha256": digest,
            }
        )
        told.wait(LONGEST_SECONDS)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
