"""A trial's folder: its files, and how it ended, known even if nobody lived to hear of it."""

import contextlib
import errno
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from trials.config import DataError, EvalPoint, TrialConfig, TrialResult, UserError
from trials.foreign_text import harmless
from trials.whole_file import write_whole

CONFIG = "config.json"
LOG = "log.txt"
CHECKPOINT = "checkpoint.safetensors"
ADAPTER = "adapter"
RESULT = "result.json"
ANSWERS = "answers.json"  # to held-out prompts
QUESTIONS = "generation.answers.json"  # with the prepared rows: these prompts
TOKENIZER_CONFIG = "tokenizer_config.json"  # tells that an adapter has its tokenizer beside it
TEMPLATE = "chat_template.jinja"  # likewise, where it has one
# In the folder of the prepared rows:
DATA_REPORT = "report.json"
EVAL_SAMPLE = "eval_sample.jsonl"
TOKENIZER = "tokenizer"  # with the chat template that rendered them; beside each adapter too


T = TypeVar("T")


def read_json(
    path: Path,
    kind: type[T],
    *,
    holds: str,
    mend: str,
    keys: Sequence[str] = (),
    error: type[UserError] = DataError,
) -> T | None:
    """Return what a JSON file of a sweep's holds; None: there is no such file.

    Args:
        holds: What it should, in words.
        mend: For one that cannot be read, which stays as it is.
        keys: What an object must have, each a text.
        error: What is raised for such a one.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise OSError(errno.EINVAL, "it is no file")
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, kind) and not _lacks(found, keys):
            return found
        why = f"has {json.dumps(found):.40}"
    except FileNotFoundError:
        return None
    except OSError as broken:
        why = f"cannot be read: {broken.strerror}"
    except (ValueError, RecursionError) as broken:
        why = f"is no whole JSON: {broken}" if path.stat().st_size else "is empty (0 bytes)"
    raise error(f"{path}: must hold {holds}, but {why}. {mend}")


def _lacks(found: object, keys: Sequence[str]) -> bool:
    texts = found if isinstance(found, dict) else {}
    return any(not isinstance(texts.get(key), str) for key in keys)


def read_report(data_dir: Path) -> dict[str, Any] | None:
    """Return what the prepared rows of a folder are; None: there are none.

    Raises:
        DataError: It cannot be read.
    """
    again = "Run the sweep's command again: it prepares the rows anew."
    return read_json(data_dir / DATA_REPORT, dict, holds="what the prepared rows are", mend=again)


def write_result(config: TrialConfig, result: TrialResult, points: Sequence[EvalPoint]) -> None:
    """Write result.json: the outcome and all evaluations."""
    written = {"result": asdict(result), "points": [asdict(point) for point in points]}
    path = Path(config.output_dir) / RESULT
    write_whole(path, json.dumps(written, indent=1, ensure_ascii=False))


def read_result(output_dir: Path) -> tuple[TrialResult, list[EvalPoint]] | None:
    """Return what a trial wrote when it ended; None: it has not ended.

    Raises:
        DataError: It cannot be read.
    """
    path, holds, mend = output_dir / RESULT, "how the trial ended", "Delete it to run it again."
    if (written := read_json(path, dict, holds=holds, mend=mend)) is None:
        return None
    try:
        return result_of(written["result"]), [EvalPoint(**point) for point in written["points"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: must hold {holds}, but lacks {error}. {mend}") from None


def result_of(fields: Mapping[str, Any]) -> TrialResult:
    """Return the result whose fields, as JSON has them, are given."""
    best = fields["best"]
    return TrialResult(**{**fields, "best": None if best is None else EvalPoint(**best)})


def forget_result(output_dir: Path) -> None:
    (output_dir / RESULT).unlink(missing_ok=True)


def log_tail(output_dir: Path, n_lines: int = 40) -> str:
    """The last lines of a trial's log; empty when there is none."""
    path = output_dir / LOG
    if not path.exists():
        return ""
    return harmless("\n".join(path.read_text(errors="replace").splitlines()[-n_lines:]))


def write_config(config: TrialConfig) -> None:
    """Begin a trial's folder: config.json, and nothing of a process that has died in it."""
    folder = Path(config.output_dir)
    forget_result(folder)
    for left_over in folder.glob("*.tmp"):
        if left_over.is_dir():
            shutil.rmtree(left_over, ignore_errors=True)
        else:
            left_over.unlink(missing_ok=True)
    write_whole(folder / CONFIG, json.dumps(asdict(config), indent=1, ensure_ascii=False))


class _Log(io.TextIOWrapper):
    """A log that people follow in a terminal. Bars of libraries go back to the line's begin."""

    def write(self, text: str) -> int:
        super().write(harmless(text.replace("\r", "\n")))
        return len(text)


@contextlib.contextmanager
def logged(output_dir: Path) -> Iterator[None]:
    """Send all that the process prints into the trial's log, from C libraries too."""
    output_dir.mkdir(parents=True, exist_ok=True)
    with _Log((output_dir / LOG).open("ab"), encoding="utf-8", line_buffering=True) as log:
        kept = [(fd, os.dup(fd)) for fd in (1, 2)]
        try:
            for fd, _ in kept:
                os.dup2(log.fileno(), fd)
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                yield
        finally:
            for fd, copy in kept:
                os.dup2(copy, fd)
                os.close(copy)
