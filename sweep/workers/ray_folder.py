"""What a Ray of our own needs: a folder for its sockets and logs, and room for its store.

Asks nothing of Ray itself, whose import takes long.
"""

import os
import resource
import tempfile
from pathlib import Path

from sweep.errors import ClusterError
from sweep.text.numbers import megabytes

PREFIX = "sweep-ray-"
_BELOW = f"/{PREFIX}12345678/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1"
MOST_BYTES = 107 - len(_BELOW)
"""Of the folder's path: that of a socket has 107, and TMPDIR is often longer than that."""


STORE_BYTES = 100 * 2**20
"""Of Ray's own memory, which is a file. Nothing large passes through it: configurations and
evaluations only."""


def check() -> None:
    """See that Ray has a folder, and that files may be as large as its store.

    Raises:
        ClusterError: It has none, or they may not: the kernel kills who writes more.
    """
    parent()
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if most != resource.RLIM_INFINITY and most < STORE_BYTES:
        raise ClusterError(
            f"Files must have room for {megabytes(STORE_BYTES)}, since Ray's store is one, but "
            f"`ulimit -f` allows {megabytes(most)}. Raise it: ulimit -f unlimited"
        )


def parent() -> Path:
    """Return the folder in which a Ray makes its own, whatever TMPDIR says.

    Raises:
        ClusterError: It cannot be used.
    """
    path = Path(os.environ.get("RAY_TMPDIR") or "/tmp").resolve()
    mend = f"Set RAY_TMPDIR to a folder of yours whose path has at most {MOST_BYTES} bytes."
    if (n_bytes := len(os.fsencode(path))) > MOST_BYTES:
        raise ClusterError(
            f"RAY_TMPDIR must be short, since sockets lie in it, but {path} has {n_bytes} bytes. "
            f"{mend} Or unset it: then it is /tmp."
        )
    try:
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise ClusterError(
            f"Ray needs a folder for its sockets, but {path} cannot be written: {error.strerror}. "
            f"{mend}"
        ) from None
