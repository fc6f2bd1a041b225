"""What a GPU can tell in six minutes: `python -m tests.gpu.script` (see tests/gpu/README.md)."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from tests.gpu.script.parts import GROUPS
from tests.gpu.script.runner import Runner

MOST_AT_ONCE = 12
"""Each imports for many seconds on one core, and takes some 10 GiB of the GPU."""


def main() -> int:
    names = [part.name for group in GROUPS for part in group]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        help="a new folder: rows.jsonl, table.md, logs (default: a temporary one)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=names,
        metavar="PART",
        help=f"{', '.join(names)} (default: all)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=6.0,
        help="for all parts; with more, each part has more too (default: %(default)g)",
    )
    usual = min(MOST_AT_ONCE, max(1, (os.cpu_count() or 1) - 2))
    parser.add_argument(
        "--at-once",
        type=int,
        default=usual,
        help="parts that share the GPU (default here: %(default)s)",
    )
    parser.add_argument("--small", action="store_true", help="tiny models, as where no GPU is")
    args = parser.parse_args()
    if args.at_once < 1:
        parser.error(f"--at-once: must be a whole number from 1, not {args.at_once}.")
    folder = args.out or Path(tempfile.mkdtemp(prefix="gpu-rows-"))
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        parser.error(f"--out: must be a new folder, but there is something in {folder}.")
    wanted, longer = {"models", *(args.only or names)}, max(1.0, args.minutes / 6)
    groups = [
        [replace(part, seconds=longer * part.seconds) for part in group if part.name in wanted]
        for group in GROUPS
    ]
    with tempfile.TemporaryDirectory(prefix="gpu-script-") as scratch:
        runner = Runner(
            folder.resolve(),
            Path(scratch),
            seconds=60 * args.minutes,
            at_once=args.at_once,
            arguments=["--small"] if args.small else [],
        )
        rows = runner.run(groups)
    print(f"\n{(folder / 'table.md').read_text()}\nIn {folder}.")
    return int(any(row.outcome == "wrong" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
