"""Be the process of one part: `python -m tests.gpu.script.part NAME FUNCTION FOLDER SCRATCH`."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path

from tests.gpu.script.bench import Bench
from tests.gpu.script.found import Found, Missing

OURS = ("sweep", "trials", "tests")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("function")
    parser.add_argument("folder", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    found = Found(args.folder, args.name)
    try:
        module, function = args.function.split(":")
        tried: Callable[[Bench], None] = getattr(importlib.import_module(module), function)
        tried(Bench(args.folder, args.scratch, args.name, args.small, found))
    except Missing as error:
        found.missing(str(error))
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in OURS:
            raise
        found.missing(str(error))  # a package's own, which was not carried along


if __name__ == "__main__":
    main()
