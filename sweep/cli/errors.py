"""How a command ends when something is wrong: in words, with an exit code."""

import sys
from contextlib import suppress
from typing import NoReturn

from trials.config import UserError
from trials.faults import place_in_words


def errors_in_words(error: Exception) -> str | None:
    """What a user got wrong; None: a fault of ours, which deserves its traceback."""
    if isinstance(error, UserError):
        return str(error)
    return place_in_words(error) if isinstance(error, OSError) else None


def interrupted(words: str = "Interrupted.") -> NoReturn:
    with suppress(OSError):  # the terminal may be gone
        print(words, file=sys.stderr, flush=True)
    sys.exit(130)


INTERRUPTED = "Interrupted. Ended trials are kept; the same command resumes."
