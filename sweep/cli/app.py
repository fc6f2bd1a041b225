"""Starts a command, and says how it ends: in words, with an exit code."""

from sweep.cli import process
from sweep.cli.errors import errors_in_words, interrupted
from sweep.workers.signals import interrupting
from trials.config import UserError


def main() -> None:
    """Run a command; what a user got wrong is said in words and exits with 2."""
    try:
        with interrupting():
            process.begin()
            from sweep.cli.commands import app  # takes a moment, and Ctrl-C is heard already

            app()
    except (UserError, OSError) as error:
        words = errors_in_words(error)
        if words is None:
            raise
        from sweep.cli.options import fail

        fail(words)
    except KeyboardInterrupt:
        interrupted()
    except SystemExit as end:
        # typer makes an exit of Ctrl-C, without a word.
        if isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):
            interrupted()
        raise
    finally:
        process.end()
