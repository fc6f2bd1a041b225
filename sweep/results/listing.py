"""`sweep list`: all sweeps of a folder."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from sweep.folder import layout
from sweep.results.status import Status, ago, read_status


@dataclass(frozen=True, slots=True)
class Listed:
    name: str
    status: Status | None
    """None: it cannot be read."""
    problem: str
    """Why it cannot be read; else empty."""


def read_all(output: Path) -> list[Listed]:
    """Read every sweep of a folder, the latest first; those that cannot be read come last."""
    return sorted(map(_read, layout.sweep_folders(output)), key=_age)


def _read(folder: Path) -> Listed:
    try:
        return Listed(folder.name, read_status(folder), "")
    except (ValueError, OSError) as error:  # a StudyError; or a folder of somebody else
        return Listed(folder.name, None, str(error))


def _age(listed: Listed) -> tuple[int, float]:
    if listed.status is None:
        return 1, 0.0
    return 0, -(listed.status.since or 0.0)


def _best(status: Status) -> float | None:
    return status.ranked[0].value if status.ranked else None


def as_json(sweeps: list[Listed]) -> list[dict[str, Any]]:
    """The list for programs: `since` in seconds of the epoch, losses in nats."""
    return [
        {
            "name": listed.name,
            "state": status.state if (status := listed.status) else "unreadable",
            "reason": status.reason if status else listed.problem,
            "since": status and status.since,
            "trials": status and len(status.trials),
            "outcomes": status and status.outcomes,
            "best_trial": status and status.best,
            "objective": status and asdict(status.objective),
            "best_value": status and _best(status),
            "base_value": status and status.base_value,
            "best_eval_loss": status and (status.ranked[0].eval_loss if status.ranked else None),
            "base_eval_loss": status and status.base_eval_loss,
            "gpu_hours": status and status.gpu_hours,
        }
        for listed in sweeps
    ]


def in_words(sweeps: list[Listed], output: Path) -> RenderableType:
    if not sweeps:
        return Text(f"{output.resolve()}: no sweeps. Look elsewhere with --output.")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("sweep", "state", "when", "trials", "best", "base"):
        table.add_column(heading, no_wrap=heading != "state")
    for listed in sweeps:
        if (status := listed.status) is None:
            table.add_row(listed.name, Text(listed.problem, style="red"))
            continue
        best, heading = _best(status), status.objective.heading
        table.add_row(
            listed.name,
            status.state,
            _when(status),
            str(len(status.trials)),
            "" if best is None else f"{heading} {best:.4f} (trial {status.best})",
            "" if status.base_value is None else f"{status.base_value:.4f}",
        )
    return table


def _when(status: Status) -> str:
    if status.since is None:
        return ""
    if status.state != "running" and time.time() - status.since > 48 * 3600:
        return time.strftime("%Y-%m-%d", time.localtime(status.since))
    return ago(status)
