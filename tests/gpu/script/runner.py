"""Run parts in processes of their own, each within its limit and all within one; a row for each."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tests.gpu.script import stand_ins
from tests.gpu.script.found import Said, said

Outcome = Literal["right", "wrong", "missing", "not run"]

ROOT = Path(__file__).parents[3]
LEAST_SECONDS = 5.0
"""With less time left a part is not begun: it would not get through its imports."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one process tries."""

    name: str
    function: str
    """`module:function`; it is given a `Bench`."""
    seconds: float
    """Then its process is killed."""
    imports_unsloth: bool = False
    """Then stand-ins are there for what it would import in vain (`stand_ins`)."""


@dataclass(frozen=True, slots=True)
class Row:
    """What became of a part."""

    part: str
    outcome: Outcome
    seconds: float
    figures: Mapping[str, Any]
    words: Sequence[str]


class Report:
    """`rows.jsonl` and `table.md`, true after each part."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        self.rows.append(row)
        with (self._folder / "rows.jsonl").open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        (self._folder / "table.md").write_text(as_table(self.rows))
        print(f"{row.part}: {row.outcome}, {row.seconds:.0f} s", *row.words, sep="\n  ", flush=True)


def as_table(rows: Sequence[Row]) -> str:
    """Return the rows in Markdown."""
    lines = ["| part | outcome | seconds | figures | in words |", "|---|---|---|---|---|"]
    for row in rows:
        figures = "; ".join(f"{name} {_short(value)}" for name, value in row.figures.items())
        cells = [row.part, row.outcome, f"{row.seconds:.0f}", figures, "; ".join(row.words)]
        lines.append("| " + " | ".join(_in_a_cell(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list):
        return ", ".join(map(_short, value))
    return str(value)


def _in_a_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


@dataclass(slots=True)
class _Running:
    part: Part
    process: subprocess.Popen[bytes]
    began: float
    limit: float


class Runner:
    """Runs groups of parts one after the other; those of a group at once.

    Args:
        folder: For rows and logs.
        scratch: For models and caches, gigabytes of them.
        seconds: For all parts together.
        at_once: Parts of a group that run beside each other, at most.
        arguments: For each part's process, behind its name and function.
    """

    def __init__(
        self,
        folder: Path,
        scratch: Path,
        *,
        seconds: float,
        at_once: int,
        arguments: Sequence[str] = (),
    ) -> None:
        self._folder, self._scratch = folder, scratch
        self._at_once, self._arguments = at_once, arguments
        self._deadline = time.monotonic() + seconds
        self._running: list[_Running] = []
        self.report = Report(folder)
        self._stand_ins = scratch / "stand-ins"
        stand_ins.written(self._stand_ins)

    def run(self, groups: Sequence[Sequence[Part]]) -> list[Row]:
        """Return a row for each part. Whatever happens, no process is left."""
        try:
            for group in groups:
                waiting = list(group)
                while waiting or self._running:
                    while waiting and len(self._running) < self._at_once:
                        self._start(waiting.pop(0))
                    self._look()
                    time.sleep(0.05)
        finally:
            for one in self._running:
                _kill(one.process)
        return self.report.rows

    def _start(self, part: Part) -> None:
        left = self._deadline - time.monotonic()
        if left < min(LEAST_SECONDS, part.seconds):
            self.report.add(Row(part.name, "not run", 0.0, {}, ["no time was left"]))
            return
        with (self._folder / f"{part.name}.log").open("wb") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.gpu.script.part"),
                    *(part.name, part.function, str(self._folder), str(self._scratch)),
                    *self._arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=self._environment(part),
                start_new_session=True,  # so that what it has started is killed with it
            )
        limit = min(part.seconds, left)
        self._running.append(_Running(part, process, time.monotonic(), limit))

    def _environment(self, part: Part) -> dict[str, str]:
        """As a sweep's workers have it (`sweep.workers.devices.training_environment`)."""
        usual = {
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self._at_once)),
            "OMP_WAIT_POLICY": "PASSIVE",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
            "PYTHONUNBUFFERED": "1",
        }
        own = {"XDG_CACHE_HOME": str(self._scratch / "cache")}
        if part.imports_unsloth:
            paths = [str(self._stand_ins), os.environ.get("PYTHONPATH", "")]
            own["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        return {**usual, **os.environ, **own}

    def _look(self) -> None:
        for one in list(self._running):
            seconds = time.monotonic() - one.began
            code = one.process.poll()
            if code is None and seconds < one.limit:
                continue
            _kill(one.process)
            self._running.remove(one)
            self.report.add(self._row(one, seconds, code))

    def _row(self, one: _Running, seconds: float, code: int | None) -> Row:
        found = said(self._folder, one.part.name)
        wrong = list(found.wrong)
        if code is None:
            wrong.append(f"killed at its limit of {one.limit:.0f} s")
        elif code:
            wrong.append(f"ended with {code}: {self._last_line(one.part)}")
        words = [*wrong, *found.missing, *found.notes]
        return Row(one.part.name, _outcome(found, wrong), seconds, found.figures, words)

    def _last_line(self, part: Part) -> str:
        log = (self._folder / f"{part.name}.log").read_text(errors="replace")
        return (log.strip().splitlines() or ["it said nothing"])[-1][:300]


def _outcome(found: Said, wrong: Sequence[str]) -> Outcome:
    if wrong:
        return "wrong"
    return "missing" if found.missing else "right"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started, also where it is gone itself."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
