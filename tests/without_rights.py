"""Commands as a user who may read a sweep's folder, and not write it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

# Root as other users are: file modes count.
AS_OTHERS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
MANY = """
import contextlib, io, json, sys
from sweep.cli.app import main
ends = []
for words in json.loads(sys.argv[1]):
    said = io.StringIO()
    sys.argv = ["sweep", *words]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code
        except BaseException as error:
            code = repr(error)
    ends.append([code, said.getvalue()])
print(json.dumps(ends))
"""


def ends_of(commands: list[str], output: Path) -> dict[str, tuple[int | str, str]]:
    """Run commands without rights: exit code (or what was raised) and words of each."""
    given = json.dumps([[*command.split(), "--output", str(output)] for command in commands])
    done = subprocess.run(
        [*AS_OTHERS, sys.executable, "-c", MANY, given], capture_output=True, text=True, check=True
    )
    return dict(zip(commands, map(tuple, json.loads(done.stdout)), strict=True))


def listing(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Mode and time, size and digest of all that lies in a folder, and of itself."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mode,
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in [folder, *folder.rglob("*")]
    }


def close_to_writing(folder: Path, *, owner: int | None = None) -> None:
    """Let nobody write a folder, or its owner alone."""
    for path in [*folder.rglob("*"), folder]:
        taken = 0o222 if owner is None else 0o022
        path.chmod(path.stat().st_mode & ~taken)
        if owner is not None:
            os.chown(path, owner, owner)
