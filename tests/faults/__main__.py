"""The fault campaign: `python -m tests.faults`. About two hours; needs root for a small tmpfs.

Real sweeps of tiny real trials, on real databases, are killed, starved and stopped at random
moments. Whatever happens, no trial is lost, each has the losses of an undisturbed sweep to the last
bit, in the study and in MLflow, and no process is left. Pruning is the default: with two workers
who is paused hangs on who was there first; with one a sweep ends as an undisturbed one in all.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from sweep.workers.signals import ENDING
from tests.faults.course import lay_out
from tests.faults.faults import FAULTS, inject
from tests.faults.tally import Tally

COLUMNS = "fault       number  sweeps  trials lost  wrong states  processes left  seconds"


def main() -> int:
    """Inject every fault, print the table, and return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--seed", type=int, default=0, help="of all random moments")
    parser.add_argument("--n", type=int, help="of each fault, instead of the usual number")
    parser.add_argument("--keep", type=Path, help="a new folder for the sweeps, which stay there")
    parser.add_argument("--table", type=Path, help="file to which each row is added as it ends")
    asked = parser.parse_args()
    # What a shell or nohup has this command ignore, the sweeps would inherit.
    for number in ENDING:
        signal.signal(number, signal.default_int_handler)
    folder = asked.keep or Path(tempfile.mkdtemp(prefix="sweep-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    course = lay_out(folder)
    print(f"undisturbed: {course.n_trials} trials in {time.monotonic() - began:.0f} s, "
          f"the first {course.start_up_seconds:.0f} s after the command", flush=True)  # fmt: skip
    tallies = []
    for fault in asked.only:
        tallies.append(inject(fault, course, seed=asked.seed, n=asked.n))
        if asked.table is not None:
            with asked.table.open("a") as table:
                table.write(_row(tallies[-1]) + "\n")
    return conclude(tallies, folder, keep=asked.keep is not None)


def conclude(tallies: Sequence[Tally], folder: Path, *, keep: bool) -> int:
    """Print the table; return 1, and leave the sweeps in `folder`, if anything was wrong."""
    print(f"\n{COLUMNS}")
    for tally in tallies:
        print(_row(tally))
    if any(tally.found for tally in tallies):
        print(f"\nNot all is well. The sweeps are in {folder}:")
        for tally in tallies:
            for words in tally.found:
                print(f"  {tally.fault}: {words}")
        return 1
    if not keep:
        shutil.rmtree(folder)
    return 0


def _row(tally: Tally) -> str:
    counts = f"{tally.n_injected:6}  {tally.n_sweeps:6}  {len(tally.lost):11}"
    return (
        f"{tally.fault:10}  {counts}  {len(tally.wrong):12}  "
        f"{len(tally.left):14}  {tally.seconds:7.0f}"
    )


if __name__ == "__main__":
    sys.exit(main())
