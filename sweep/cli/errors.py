"""How a command ends when something is wrong: in words, with an exit code."""

import sys
from contextlib import suppress
from typing import NoReturn

from sweep.workers.signals import unheard


def errors_in_words(error: Exception) -> str | None:
    """What a user got wrong; None: a fault of ours, which deserves its traceback."""
    from trials.config import UserError  # takes a moment: a command hears Ctrl-C before
    from trials.faults import place_in_words

    if isinstance(error, UserError):
        return str(error)
    return place_in_words(error) if isinstance(error, OSError) else None


def interrupted(words: str = "Interrupted.") -> NoReturn:
    unheard()  # whoever asks once more gets no traceback
    with suppress(OSError):  # the terminal may be gone
        print(words, file=sys.stderr, flush=True)
    sys.exit(130)


INTERRUPTED = "Interrupted. Ended trials are kept; the same command resumes."
