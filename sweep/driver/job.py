"""What `sweep run` was asked to do, and how it ends."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sweep.driver import preparation
from sweep.space.space import Space
from sweep.storage.patient import PatientStorage
from sweep.tracking.destination import Destination
from trials.config import Backend


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the command line says beside the space."""

    output: Path
    """Folder of all sweeps; this one's is below it, by its name."""
    workers: int | None
    """CPU workers; None: GPUs where there are any."""
    gpus: int | None
    """GPUs to use at most; None: all."""
    mlflow: str | None
    """An MLflow server's address; None: where the runs are, or MLflow's own variables say."""
    study: str | None = None
    """A PostgreSQL database's address; None: where the study is, or a file of the sweep's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A checked space, the data prepared for it, and where it runs."""

    space: Space
    options: Options
    output_dir: Path
    on_gpus: bool
    backend: Backend
    found: preparation.Check
    storage: PatientStorage
    """The study's database."""
    tracked: Destination
    """In MLflow."""


Status = Literal["FINISHED", "FAILED", "KILLED"]
"""Of a sweep, in MLflow's words."""
STATES: dict[Status, str] = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "stopped"}
"""The same, for `sweep status`."""
Ending = tuple[Status, str | None]
"""How a sweep has ended, and what failed."""
EXIT_CODES: dict[Status, int] = {"FINISHED": 0, "FAILED": 1, "KILLED": 130}
