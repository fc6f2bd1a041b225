"""A process of `trials` that is asked something, and answers or says what the user got wrong."""

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sweep.errors import SpaceError
from trials.foreign_text import cleaned, harmless
from trials.trial_folder import LOG
from trials.unfinished import scratch_dir


def answered(
    asked: Mapping[str, Any],
    say: Callable[[str], None],
    command: Callable[..., list[str]],
    what: str = "reading the data",
) -> dict[str, Any]:
    """Return the report of a process that is asked.

    Args:
        command: Starts it, given the paths of the request and of the answer.
        what: It does.

    Raises:
        SpaceError: It found problems, or broke.
    """
    with scratch_dir() as scratch:
        request_path, answer_path = Path(scratch) / "request.json", Path(scratch) / "answer.json"
        request_path.write_text(json.dumps(asked))
        log_path = Path(scratch) / LOG
        paths = str(request_path), str(answer_path)
        with (
            log_path.open("w") as log,
            subprocess.Popen(
                command(*paths),
                stdin=subprocess.PIPE,  # its end is ours: it must not outlive this process
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                errors="replace",
                start_new_session=True,  # signals to our group are not meant for it
            ) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                say(cleaned(line.rstrip()))
        if not answer_path.exists():
            end = harmless("\n".join(log_path.read_text(errors="replace").splitlines()[-15:]))
            raise SpaceError(f"{what} failed with exit code {process.returncode}:\n{end}")
        answer = json.loads(answer_path.read_text())
    if "problems" in answer:
        raise SpaceError(harmless(answer["problems"]))
    report: dict[str, Any] = answer["report"]
    return report
