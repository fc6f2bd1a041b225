"""How a command ends when something is wrong: in words, with an exit code."""

import errno
import sys
from contextlib import suppress
from typing import NoReturn

from sweep.workers.signals import unheard


def errors_in_words(error: Exception) -> str | None:
    """What a user got wrong; None: a fault of ours, which deserves its traceback."""
    from trials.config import UserError  # takes a moment: a command hears Ctrl-C before
    from trials.faults import no_right

    if isinstance(error, UserError):
        return str(error)
    if not isinstance(error, OSError):
        return None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"No space left on the disk: {error.filename or error}. Free some and try again."
    return no_right(error)


def interrupted(words: str = "Interrupted.") -> NoReturn:
    unheard()  # whoever asks once more gets no traceback
    with suppress(OSError):  # the terminal may be gone
        print(words, file=sys.stderr, flush=True)
    sys.exit(130)


INTERRUPTED = "Interrupted. Ended trials are kept; the same command resumes."
