"""The fault campaign on a cluster: `python -m tests.cluster.campaign`. Needs root, on Linux.

Like `python -m tests.faults`, on a head and two nodes that share neither network nor files.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.cluster.faults import FAULTS, Course, lay_out
from tests.cluster.machines import why_not
from tests.faults.__main__ import conclude
from tests.faults.tally import Tally

N_WORKERS = 2


def main() -> int:
    """Inject every fault, print the table, and return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.campaign", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--n", type=int, default=3, help="of each fault")
    parser.add_argument("--keep", type=Path, help="a new folder for the sweeps, which stay there")
    asked = parser.parse_args()
    reason = why_not()
    if reason is not None:
        print(f"No cluster: {reason}.")
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell has its background ignore Ctrl-C
        signal.signal(number, signal.default_int_handler)
    folder = asked.keep or Path(tempfile.mkdtemp(prefix="sweep-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with lay_out(folder, n_workers=N_WORKERS, n_trials=8, epochs="[60, 80]") as course:
        seconds = time.monotonic() - began
        print(f"undisturbed: {course.n_trials} trials, in {seconds:.0f} s", flush=True)
        tallies = [_inject(fault, course, asked.n) for fault in asked.only]
    return conclude(tallies, folder, keep=asked.keep is not None)


def _inject(fault: str, course: Course, n: int) -> Tally:
    tally = Tally(fault, n, course.reference)
    for _ in range(n):
        while len(course.cluster.workers) < N_WORKERS:
            course.cluster.join()
        try:
            FAULTS[fault](course, tally)
        except Exception as error:  # the other faults still have their turn
            traceback.print_exc()
            tally.is_wrong(f"the campaign itself has failed: {error!r}")
        for worker in course.cluster.workers[N_WORKERS:]:
            course.cluster.kill(worker)
    return tally


if __name__ == "__main__":
    sys.exit(main())
