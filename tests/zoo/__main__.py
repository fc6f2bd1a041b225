"""The zoo: `python -m tests.zoo [NAME…] [--out DIR]`, some 5 s of a CPU core for each cell.

Every architecture in every precision is used as a sweep uses it, beside plain transformers and
peft. A cell is one JSON in DIR/cells; what is there is not measured again, so the command may be
stopped and given once more. It runs behind whatever else does, and may be left to itself.
`python -m tests.zoo.table DIR` makes a page of the cells.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.zoo.architectures import ARCHITECTURES
from trials.whole_file import write_whole

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

LIMIT_SECONDS = 240
"""Of a cell; the slowest took a quarter of it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a cell's files are."""

    out: Path
    name: str
    precision: str

    @property
    def model(self) -> Path:
        return self.out / "models" / self.name

    @property
    def work(self) -> Path:
        return self.out / "work" / f"{self.name}.{self.precision}"

    @property
    def log(self) -> Path:
        return self.out / "logs" / f"{self.name}.{self.precision}.txt"

    @property
    def result(self) -> Path:
        return self.out / "cells" / f"{self.name}.{self.precision}.json"


def main() -> int:
    """Measure what is asked for; return 1 if anything is wrong."""
    asked = _asked()
    os.nice(10)  # behind whatever else the machine does
    _set_up(asked.out)
    from tests.zoo.bench import PRECISIONS

    places = [
        Place(asked.out, name, precision)
        for name in asked.names or ARCHITECTURES
        for precision in asked.precision or PRECISIONS
    ]
    for place in places:
        if asked.again:
            place.result.unlink(missing_ok=True)
    _measure(places, n_at_once=asked.jobs)
    found = [json.loads(place.result.read_text()) for place in places]
    counts = {v: sum(cell["verdict"] == v for cell in found) for v in ("right", "refused", "WRONG")}
    print(", ".join(f"{n} {verdict}" for verdict, n in counts.items()), flush=True)
    return 1 if counts["WRONG"] else 0


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="an architecture; all by default")
    parser.add_argument("--out", type=Path, default=Path("zoo"), help="default: %(default)s")
    parser.add_argument("--precision", nargs="+", choices=["nf4", "int8", "none", "float32"])
    parser.add_argument("--jobs", type=int, default=2, help="cells at once; default: %(default)s")
    parser.add_argument("--again", action="store_true", help="measure anew what is there")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(ARCHITECTURES):
        parser.error(f"no such architecture: {', '.join(sorted(unknown))}")
    asked.out = asked.out.resolve()
    return asked


def _set_up(out: Path) -> None:
    """Before torch is imported: one thread a process, no network."""
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    for folder in ("models", "work", "logs", "cells"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    import bitsandbytes
    import peft
    import torch
    import transformers

    assert bitsandbytes and peft and transformers.GenerationMixin  # once, before the forks
    torch.set_num_threads(1)


def _measure(places: Sequence[Place], *, n_at_once: int) -> None:
    """Fork a process for each cell: libraries are imported once, and a crash is one cell's."""
    fork = multiprocessing.get_context("fork")
    waiting = iter(places)
    running: dict[BaseProcess, tuple[Place, float]] = {}
    for place in _built(waiting):
        while len(running) >= n_at_once:
            _reap(running)
        process = fork.Process(target=_cell, args=(place,))
        process.start()
        running[process] = (place, time.monotonic())
    while running:
        _reap(running)


def _built(places: Iterator[Place]) -> Iterator[Place]:
    """Make each model before its cells, which need it at once."""
    from tests.zoo.bench import in_words
    from tests.zoo.build import built

    for place in places:
        if place.result.exists():
            continue  # a second command, beside this one
        try:
            built(place.name, place.model)
        except Exception as error:
            _conclude(place, f"transformers does not build it: {in_words(error)}", 0.0)
        else:
            yield place


def _reap(running: dict[BaseProcess, tuple[Place, float]]) -> None:
    """Wait until a process has ended, or ends for its time; its cell then has a result."""
    multiprocessing.connection.wait([process.sentinel for process in running], timeout=1.0)
    for process, (place, began) in list(running.items()):
        seconds = time.monotonic() - began
        if process.is_alive() and seconds < LIMIT_SECONDS:
            continue
        is_late = process.is_alive()
        process.kill()
        process.join()
        del running[process]
        if not place.result.exists():
            why = f"took longer than {LIMIT_SECONDS} s" if is_late else f"died: {process.exitcode}"
            _conclude(place, f"{why}; its log is {place.log.name}", seconds)
        _say(place)


def _conclude(place: Place, words: str, seconds: float) -> None:
    """Write the result of a cell that could not write its own."""
    from tests.zoo.cell import made

    result = {"verdict": "WRONG", "words": [words], "notes": [], "modules": {}, "measured": {}}
    about = {"architecture": place.name, "precision": place.precision, "seconds": seconds}
    _write(place, {**about, **result, **made()})


def _write(place: Place, result: dict[str, Any]) -> None:
    write_whole(place.result, json.dumps(result, indent=1, ensure_ascii=False))


def _say(place: Place) -> None:
    found = json.loads(place.result.read_text())
    about = f"{place.name} {place.precision}: {found['verdict']}, {found['seconds']:.0f} s"
    print(f"{about}; {'; '.join(found['words'])}"[:400], flush=True)


def _cell(place: Place) -> None:
    """In a process of its own: what it prints goes into its log."""
    import torch

    from tests.zoo.cell import measured

    torch.set_num_threads(1)  # makes torch's pool anew, before several threads ask for it at once
    # One of its own: cells that run at once would wait for each other's tokens.
    os.environ["XDG_CACHE_HOME"] = str(place.work / "cache")
    with place.log.open("w", encoding="utf-8") as log:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), stream.fileno())
        shutil.rmtree(place.work, ignore_errors=True)
        _write(place, measured(place.name, place.precision, place.model, place.work))
        shutil.rmtree(place.work)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()


if __name__ == "__main__":
    sys.exit(main())
