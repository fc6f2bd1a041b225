"""Standard output and error that may fail: a full disk under a log, a terminal that is gone."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO


@contextlib.contextmanager
def dropped_if_it_fails() -> Iterator[None]:
    """Drop what cannot be written: a sweep goes on without anybody who reads, and is in its folder.

    What a command prints for its own sake, as `sweep best` does, must fail instead.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(tolerant, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _Tolerant(io.FileIO):
    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        left = memoryview(data)
        with contextlib.suppress(OSError):
            while left:
                left = left[os.write(self.fileno(), left) :]
        return len(data)


def tolerant(stream: TextIO) -> TextIO:
    """The same file, which drops what cannot be written.

    It has no buffer, which would keep what failed and fail again at the end.
    """
    if not isinstance(stream, io.TextIOWrapper):  # none, or a notebook's
        return stream
    try:
        raw = _Tolerant(stream.fileno(), "w", closefd=False)
    except (OSError, ValueError):  # closed, or no file
        return stream
    return io.TextIOWrapper(raw, encoding=stream.encoding, errors=stream.errors, write_through=True)
