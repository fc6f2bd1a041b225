"""A seeded campaign of mutated space files and data files.

Each must end in words (exit code 2) or in a valid run: no traceback, no hang, no flood of memory,
and nothing of what a file holds is run.

    python -m tests.faults.mutated_files --yaml 500 --data 300 --seed 0
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

from tests.faults.data_mutants import data_files, make_base, prepared
from tests.faults.space_mutants import RUN_MARK, checked, space_texts
from trials.data import text_files

Outcome = Literal["valid", "words", "traceback", "hang", "memory", "code run"]
FINDINGS: Sequence[Outcome] = ("traceback", "hang", "memory", "code run")

CASE_SECONDS = 20
COMMAND_SECONDS = 120
MEMORY_GIB = 1.0
"""What one file may cost beyond the libraries."""
MOST_DATA_BYTES = 2**26
"""In place of a quarter of the free memory, whatever the machine has."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one file ended."""

    kind: str
    case: str
    outcome: Outcome
    said: str


def judged(kind: str, case: str, read: Callable[[], object]) -> Verdict:
    """Call `read` in a process of its own, which a hang, a crash or a flood cannot outlive."""
    resident_gib = _resident_gib()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        signal.alarm(CASE_SECONDS)  # its default action also ends a loop inside of a library
        os.write(writing, json.dumps(_outcome(read)).encode()[:4000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    _, status, usage = os.wait4(child, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        outcome: Outcome = "hang" if number == signal.SIGALRM else "traceback"
        return Verdict(kind, case, outcome, signal.Signals(number).name)
    outcome, said = json.loads(answer)
    if Path(RUN_MARK).exists():
        return Verdict(kind, case, "code run", said)
    grown_gib = usage.ru_maxrss / 2**20 - resident_gib
    if grown_gib > MEMORY_GIB:
        return Verdict(kind, case, "memory", f"{grown_gib:.1f} GiB")
    return Verdict(kind, case, outcome, said)


def _resident_gib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**30


def _outcome(read: Callable[[], object]) -> tuple[Outcome, str]:
    """What `sweep.cli.app.main` would make of it."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            read()
        except ValueError as error:
            if type(error).__module__.split(".")[0] in ("sweep", "trials"):
                return "words", str(error)[:500]
            return "traceback", traceback.format_exc()[-1000:]
        except BaseException:
            return "traceback", traceback.format_exc()[-1000:]
    return "valid", ""


def commanded(kind: str, case: str, space_path: Path, overrides: Sequence[str] = ()) -> Verdict:
    """Give a file to the command itself."""
    command = [sys.executable, "-m", "sweep", "check", str(space_path), "--workers", "1"]
    sets = [word for given in overrides for word in ("--set", given)]
    try:
        done = subprocess.run(
            [*command, *sets],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Verdict(kind, case, "hang", f"{COMMAND_SECONDS} s")
    said = done.stdout + done.stderr
    if Path(RUN_MARK).exists():
        return Verdict(kind, case, "code run", said)
    if done.returncode not in (0, 2) or "Traceback" in said:
        return Verdict(kind, case, "traceback", f"exit code {done.returncode}: {said[-1000:]}")
    return Verdict(kind, case, "words" if done.returncode else "valid", said[:500])


def campaign(
    scratch: Path, *, n_yaml: int, n_data: int, n_commands: int, seed: int
) -> list[Verdict]:
    """Mutate and judge so many files of each kind, and a few of each by the command itself."""
    base, chance = scratch / "base", random.Random(seed)
    spaces = list(islice(space_texts(scratch, base, seed), n_yaml))
    verdicts = [judged("YAML", space.case, partial(checked, space)) for space in spaces]
    make_base(base)  # now only: torch makes each new process dearer
    files = list(islice(data_files(scratch, seed), n_data))
    text_files._most_bytes = lambda: MOST_DATA_BYTES
    verdicts += [judged("data", file.case, partial(prepared, file, base)) for file in files]
    for space in chance.sample(spaces, min(n_commands, len(spaces))):
        path = space.write()
        sets = [f"{key}={value}" for key, value in space.overrides.items()]
        sets = [given for given in sets if "\0" not in given]  # no command line can hold it
        verdicts.append(commanded("YAML, command", space.case, path, sets))
    for file in chance.sample(files, min(n_commands, len(files))):
        space_path = file.write_space(base)
        verdicts.append(commanded("data, command", file.case, space_path))
    return verdicts


def in_words(verdicts: Sequence[Verdict], seconds: float) -> str:
    """The table: how many of each kind ended how; then every finding."""
    outcomes: Sequence[Outcome] = ("words", "valid", *FINDINGS)
    kinds = list(dict.fromkeys(verdict.kind for verdict in verdicts))
    counts = Counter((verdict.kind, verdict.outcome) for verdict in verdicts)
    lines = [f"{'':14}{'cases':>7}" + "".join(f"{outcome:>11}" for outcome in outcomes)]
    for kind in kinds:
        n_cases = sum(verdict.kind == kind for verdict in verdicts)
        row = "".join(f"{counts[kind, outcome]:>11}" for outcome in outcomes)
        lines.append(f"{kind:14}{n_cases:>7}{row}")
    lines.append(f"{seconds:.0f} s")
    found = [verdict for verdict in verdicts if verdict.outcome in FINDINGS]
    lines += [f"\n{v.outcome}: {v.kind}, {v.case}\n{v.said}" for v in found]
    return "\n".join(lines)


def main() -> int:
    """Run the campaign; 1 if there is any finding."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--yaml", type=int, default=500)
    asked.add_argument("--data", type=int, default=300)
    asked.add_argument("--commands", type=int, default=12, help="of each, by the command itself")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--verbose", action="store_true", help="say what each case said")
    options = asked.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sweep-mutants-") as folder:
        root = str(Path(__file__).parents[2])
        os.environ.update(QUIET, XDG_CACHE_HOME=f"{folder}/cache", PYTHONPATH=root)
        os.chdir(folder)  # where a command of a file would leave its mark
        verdicts = campaign(
            Path(folder),
            n_yaml=options.yaml,
            n_data=options.data,
            n_commands=options.commands,
            seed=options.seed,
        )
    if options.verbose:
        print("\n".join(f"{v.kind} | {v.case} | {v.outcome} | {v.said}" for v in verdicts))
    print(in_words(verdicts, time.monotonic() - began))
    return int(any(verdict.outcome in FINDINGS for verdict in verdicts))


QUIET = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

if __name__ == "__main__":
    sys.exit(main())
