"""Every command in odd places and environments: `python -m tests.places`. An hour; needs root.

Each row is a place: a folder with an odd name, a home that cannot be written, a locale of ASCII,
a closed standard output. A real sweep of two tiny trials is made in it, and all commands about it
are given there. Each cell must have what the plain place has, or words that name the place and the
mend; nothing may be written outside of the folder, and no process may be left.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.places.commands import COMMANDS
from tests.places.places import PLACES
from tests.places.rows import lay_out


def main() -> int:
    """Try every place, write each row as it ends, and return 1 if any cell is wrong."""
    places = {place.name: place for place in PLACES}
    parser = argparse.ArgumentParser(prog="python -m tests.places", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", choices=list(places), default=list(places), metavar="PLACE"
    )
    commands = [command.name for command in COMMANDS]
    parser.add_argument("--commands", nargs="+", choices=commands, default=commands)
    parser.add_argument("--keep", type=Path, help="a folder for the rows, which stay there")
    parser.add_argument("--to", type=Path, default=Path("places.txt"), help="the table")
    asked = parser.parse_args()
    folder = asked.keep or Path(tempfile.mkdtemp(prefix="sweep-places-"))
    chosen = [command for command in COMMANDS if command.name in asked.commands]
    course = lay_out(folder, chosen)
    n_wrong = 0
    with asked.to.open("a", encoding="utf-8") as table:
        for name in asked.only:
            row = course.row(places[name])
            n_wrong += len(row.wrong)
            for stream in (table, sys.stdout):
                print(row.words, file=stream, flush=True)
    print(f"{n_wrong} cells are wrong")
    return 1 if n_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
