"""A disk of a few MB that can be filled to its last byte and emptied again."""

from __future__ import annotations

import errno
import subprocess
import time
from pathlib import Path

MIB = 2**20


class SmallDisk:
    """A tmpfs, mounted (which takes root) for one sweep."""

    def __init__(self, folder: Path, n_mib: int = 24) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self._ballast = folder / "ballast"
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={n_mib}m", "sweep-faults", str(folder)],
            check=True,
        )

    def fill(self) -> None:
        """Leave no byte free."""
        with self._ballast.open("ab", buffering=0) as ballast:
            size = MIB
            while size:
                try:
                    if ballast.write(b"\0" * size) < size:
                        size //= 2
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size //= 2

    def keep_full(self, seconds: float) -> None:
        """Take whatever is given back, such as by a file that is deleted, for so long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.fill()
            time.sleep(0.1)

    def free(self) -> None:
        """Give all of it back."""
        self._ballast.unlink(missing_ok=True)

    def unmount(self) -> None:
        """Take the disk away, with what is on it."""
        # Lazy: whoever looked at a database on it may hold that open still.
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)
