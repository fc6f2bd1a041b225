"""What a command needs of its own process, before anything else: files, a folder, a plain Python.

A shell, cron, a container or a cluster may start it otherwise.
"""

import codecs
import io
import locale
import os
import sys
from pathlib import Path

from sweep.screen.in_ascii import write_forms
from sweep.screen.output import tolerant
from trials.config import UserError

_SWITCHES = ("PYTHONWARNINGS", "PYTHONOPTIMIZE", "PYTHONDEVMODE", "PYTHONINSPECT")
"""Of Python, for somebody's own programs: libraries warn, and `--help` is made of docstrings."""


def begin() -> None:
    """Begin anew, once, where this process is not what a command needs; then set its output up.

    Raises:
        UserError: The current folder is gone, or closed to this user.
    """
    was_closed = _hold_standard_files()
    switches = [name for name in _SWITCHES if os.environ.pop(name, None)]
    if was_closed or switches or not _reads_utf8():
        _begin_anew()
    if not Path(os.environ.get("XDG_CACHE_HOME", "/")).is_absolute():
        # To be ignored, by its specification; libraries would write into the current folder.
        del os.environ["XDG_CACHE_HOME"]
    # Of this process alone: what is started writes to files and to us, in UTF-8.
    os.environ.pop("PYTHONIOENCODING", None)
    # What is said beside a result must not cost it.
    sys.stderr = tolerant(sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            write_forms(stream)
    try:
        Path.cwd()
    except OSError as error:
        raise UserError(
            f"The current folder must be there, but cannot be read: {error.strerror}. Go to "
            f"another one, with `cd`, and try again."
        ) from None


def _hold_standard_files() -> bool:
    """Open what is closed of 0, 1 and 2; return whether anything was.

    A database that got the number would be written into by whatever prints.
    """
    was_closed = False
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # To be read only: writing still fails. It takes the lowest number, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)
            was_closed = True
    return was_closed


def _reads_utf8() -> bool:
    """Whether files and their names are UTF-8: the locale may be that of 1990."""
    encodings = locale.getencoding(), sys.getfilesystemencoding()
    is_utf8 = all(codecs.lookup(name).name == "utf-8" for name in encodings)
    return bool(sys.flags.utf8_mode) or is_utf8 or os.environ.get("PYTHONUTF8") == "1"


def _begin_anew() -> None:
    output = sys.stdout or sys.stderr
    encoding = locale.getencoding() if output is None else output.encoding
    os.environ.setdefault("PYTHONIOENCODING", encoding)
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def end() -> None:
    """Drop what cannot be written: Python would try once more as it ends, and exit with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
