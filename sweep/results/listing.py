"""`sweep list`: all sweeps of a folder."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from sweep.folder import layout
from sweep.results.reading import NOT_ENDED, StoredSweep, read_sweep
from sweep.results.status import ago
from sweep.study.summary import SAMPLE, Judged


@dataclass(frozen=True, slots=True)
class Listed:
    name: str
    sweep: StoredSweep | None
    """None: it cannot be read."""
    problem: str
    """Why it cannot be read; else empty."""


def read_all(output: Path) -> list[Listed]:
    """Read every sweep of a folder, the latest first; those that cannot be read come last."""
    return sorted(map(_read, layout.sweep_folders(output)), key=_age)


def unended(output: Path) -> list[StoredSweep]:
    """Return the sweeps that can go on: they have not ended, and no process runs them."""
    found = [each.sweep for each in read_all(output) if each.sweep is not None]
    return [
        sweep
        for sweep in found
        if (sweep.folder / layout.SPACE).exists()
        and sweep.state != "running"
        and (sweep.state != "finished" or any(t.outcome in NOT_ENDED for t in sweep.trials))
    ]


def _read(folder: Path) -> Listed:
    try:
        sweep = read_sweep(folder)
        _best(sweep)  # what cannot be read is told of this sweep alone
        return Listed(folder.name, sweep, "")
    except (ValueError, OSError) as error:  # a StudyError; or a folder of somebody else
        return Listed(folder.name, None, str(error))


def _age(listed: Listed) -> tuple[int, float]:
    if listed.sweep is None:
        return 1, 0.0
    return 0, -(listed.sweep.since or 0.0)


def _best(sweep: StoredSweep) -> Judged | None:
    return sweep.judged(sweep.decided[0]) if sweep.decided else None


def as_json(sweeps: list[Listed]) -> list[dict[str, Any]]:
    """The list for programs: `since` in seconds of the epoch, losses in nats."""
    return [
        {
            "name": listed.name,
            "state": sweep.state if (sweep := listed.sweep) else "unreadable",
            "reason": sweep.reason if sweep else listed.problem,
            "since": sweep and sweep.since,
            "trials": sweep and len(sweep.trials),
            "outcomes": sweep and sweep.outcomes,
            "best_trial": sweep and sweep.best,
            "objective": sweep and asdict(sweep.objective),
            "best_value": (best := sweep and _best(sweep)) and best.value,
            "base_value": best.base_value if best else sweep and sweep.base_value,
            "best_eval_loss": best and best.eval_loss,
            "base_eval_loss": best.base_eval_loss if best else sweep and sweep.base_eval_loss,
            "measured": best and (best.where or SAMPLE),
            "gpu_hours": sweep and sweep.gpu_hours,
        }
        for listed in sweeps
    ]


def sweeps_table(sweeps: list[Listed], output: Path) -> RenderableType:
    if not sweeps:
        return Text(f"{output.resolve()}: no sweeps. Look elsewhere with --output.")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("sweep", "state", "when", "trials", "best", "base"):
        table.add_column(heading, no_wrap=heading != "state")
    for listed in sweeps:
        if (sweep := listed.sweep) is None:
            table.add_row(listed.name, Text(listed.problem, style="red"))
            continue
        best, heading = _best(sweep), sweep.objective.heading
        base = best.base_value if best else sweep.base_value
        table.add_row(
            listed.name,
            sweep.state,
            _when(sweep),
            str(len(sweep.trials)),
            "" if best is None else f"{heading} {best.value:.4f} (trial {sweep.best})",
            "" if base is None else f"{base:.4f}",
        )
    return table


def _when(sweep: StoredSweep) -> str:
    if sweep.since is None:
        return ""
    if sweep.state != "running" and time.time() - sweep.since > 48 * 3600:
        return time.strftime("%Y-%m-%d", time.localtime(sweep.since))
    return ago(sweep)
