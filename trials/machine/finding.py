"""What is found of one thing that training needs."""

from dataclasses import dataclass
from typing import Literal

Grade = Literal["ready", "slower", "cannot"]
GRADES: tuple[Grade, ...] = ("ready", "slower", "cannot")
"""The best first; the place is the exit code of `sweep doctor`."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of `sweep doctor`, and of `sweep submit`'s look at a machine."""

    subject: str
    found: str
    mend: str | None = None
    """What to do, in sentences; None: nothing."""
    grade: Grade = "ready"

    @property
    def words(self) -> str:
        """All of it, where no column says the subject."""
        return f"{self.subject}: {self.found}." + (f" {self.mend}" if self.mend else "")
