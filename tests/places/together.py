"""Commands in one process, one after the other: `python -m tests.places.together GIVEN FOLDER`.

GIVEN is a JSON list of commands; what each says goes to FOLDER. The imports are made once.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

from sweep.cli import app


def main(given: str, folder: Path) -> None:
    """Give the commands; write N.code, N.out and N.err of each."""
    for number, words in enumerate(json.loads(given)):
        for descriptor, end in ((1, "out"), (2, "err")):
            with (folder / f"{number}.{end}").open("wb") as file:
                os.dup2(file.fileno(), descriptor)
        code = _code_of(words)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        (folder / f"{number}.code").write_text(str(code))


def _code_of(words: list[str]) -> int:
    sys.argv = ["sweep", *words]
    try:
        app.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
