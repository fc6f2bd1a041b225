"""A base model and an adapter of a sweep, to be asked: in a process that may hold torch."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sweep.errors import ExportError
from sweep.export.adapter import no_adapter
from sweep.export.training_run import data_of
from sweep.folder import layout
from sweep.results.trial_record import Record
from trials.foreign_text import all_cleaned, harmless
from trials.parent import module_command
from trials.trial_folder import LOG, read_report
from trials.unfinished import scratch_dir


class PromptRefused(ExportError):
    """This prompt cannot be asked; another may be."""


class Models:
    """Both models, loaded. One base model, whose adapter is switched on and off.

    Args:
        log: What the process says beside its answers.
    """

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log
        self._next()  # all is loaded

    def ask(self, prompt: str) -> list[str]:
        """Return the base model's answer and the adapter's.

        Raises:
            PromptRefused: As the class says.
            ExportError: The process has ended.
        """
        assert self._process.stdin is not None
        try:
            print(json.dumps({"prompt": prompt}), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._broken() from None
        return [self._next()["answer"] for _ in range(2)]

    def _next(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._broken()
        found: dict[str, Any] = all_cleaned(json.loads(line))
        if "refused" in found:
            raise PromptRefused(found["refused"])
        return found

    def _broken(self) -> ExportError:
        self._process.wait()
        lines = [
            line for line in self._log.read_text(errors="replace").splitlines() if line.strip()
        ]
        last = "\n".join(f"  {line}" for line in lines[-3:] or ["it was killed"])
        return ExportError(harmless(f"The model cannot be asked: its process has ended.\n{last}"))

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Let Ctrl-C end the answer that is written: raised here, it could lose what is there."""
        before = signal.getsignal(signal.SIGINT)
        if before is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, lambda *_: self._process.send_signal(signal.SIGINT))
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


@contextmanager
def loaded(record: Record) -> Iterator[Models]:
    """Load a trial's base model, with the precision of its training, and its adapter.

    Raises:
        ExportError: There is no adapter, or the models cannot be loaded.
        StudyError: The trial's configuration is not there.
    """
    config = record.needed_config()
    if record.adapter is None:
        raise ExportError(no_adapter(record))
    task, data = record.sweep.task, data_of(record)
    report = read_report(record.sweep.folder / layout.DATA) or {}
    request = {
        "model": asdict(replace(config.model, backend="transformers")),
        "adapter": str(record.adapter.resolve()),
        "chat": bool(task.get("chat")) and not report.get("is_text"),
        "template_arguments": json.loads(task.get("template_arguments") or "{}"),
        "date": report.get("date"),
        "system": data.get("system"),
    }
    with scratch_dir() as scratch:
        asked, log = Path(scratch) / "request.json", Path(scratch) / LOG
        asked.write_text(json.dumps(request))
        with (
            log.open("w") as stderr,
            subprocess.Popen(
                module_command("trials.trying", str(asked)),
                stdin=subprocess.PIPE,  # its end is ours: it must not outlive this process
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is not meant for it
            ) as process,
        ):
            try:
                yield Models(process, log)
            finally:
                process.kill()


def raw_prompts(record: Record) -> str | None:
    """What the training rows put around a prompt, which is not done here; None: nothing."""
    template: str | None = data_of(record).get("prompt")
    return template
