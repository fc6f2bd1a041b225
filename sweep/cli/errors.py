"""How a command ends when something is wrong: in words, with an exit code."""

import errno
import sys
from contextlib import suppress
from typing import NoReturn

from trials.config import UserError

_NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)


def errors_in_words(error: Exception) -> str | None:
    """What a user got wrong; None: a fault of ours, which deserves its traceback."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"No space left on the disk: {error.filename or error}. Free some and try again."
    if isinstance(error, OSError) and error.errno in _NO_RIGHT and error.filename:
        mend = "Ask its owner for the right, or name another place."
        return f"{error.filename}: {error.strerror}. {mend}"
    return None


def interrupted(words: str = "Interrupted.") -> NoReturn:
    with suppress(OSError):  # the terminal may be gone
        print(words, file=sys.stderr, flush=True)
    sys.exit(130)


INTERRUPTED = "Interrupted. Ended trials are kept; the same command resumes."
