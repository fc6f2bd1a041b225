"""Stop a sweep or prune a trial, where it runs: on the head of a cluster."""

import sys
from pathlib import Path

from sweep.cluster.on_head.answer import give_answer
from sweep.control.prune import prune
from sweep.control.stop import stop
from sweep.errors import StudyError
from sweep.folder.lock import holder


def prune_here(name: str, number: int, output: Path) -> None:
    """Be the small job: answer with what was done, in words, and as `prune` returns it."""
    words: list[str] = []
    code: int | None = None
    try:
        code = prune(output.expanduser() / name, number, words.append)
    except StudyError as error:
        words.append(str(error))
    give_answer({"words": " ".join(words), "code": code})


def stop_here(name: str, output: Path) -> None:
    """Be the small job: answer with the process that was asked, or null."""
    folder = output.expanduser() / name
    asked: list[str] = []
    running_in = holder(folder)
    if running_in is not None:
        stop(folder, wait=False, say=asked.append)
    give_answer(None if running_in is None else str(running_in))


if __name__ == "__main__":
    if sys.argv[1] == "stop":
        stop_here(sys.argv[2], Path(sys.argv[3]))
    else:
        prune_here(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
