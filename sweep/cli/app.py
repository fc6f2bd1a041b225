"""Starts a command, and says how it ends: in words, with an exit code."""


def main() -> None:
    """Run a command; what a user got wrong is said in words and exits with 2."""
    # What takes a moment is imported where Ctrl-C is heard already.
    try:
        from sweep.workers.signals import interrupting, unheard

        with interrupting():
            from sweep.cli import process

            process.begin()
            from sweep.cli.commands import app

            app()
    except KeyboardInterrupt:
        from sweep.cli.errors import interrupted

        interrupted()
    except SystemExit as end:
        unheard()  # all is written: the exit code shall say so
        # typer makes an exit of Ctrl-C, without a word.
        if isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):
            from sweep.cli.errors import interrupted

            interrupted()
        raise
    except Exception as error:
        from sweep.cli.errors import errors_in_words

        if (words := errors_in_words(error)) is None:
            raise
        from sweep.cli.options import fail

        unheard()
        fail(words)
    finally:
        from sweep.cli import process

        process.end()
