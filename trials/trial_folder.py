"""How a trial ended, in its own folder: known even if nobody lived to hear of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trials.config import EvalPoint, TrialConfig, TrialResult
from trials.whole_file import write_whole


def write_result(config: TrialConfig, result: TrialResult, points: Sequence[EvalPoint]) -> None:
    """Write result.json: the outcome and all evaluations."""
    written = {"result": asdict(result), "points": [asdict(point) for point in points]}
    write_whole(_path(Path(config.output_dir)), json.dumps(written, indent=1, ensure_ascii=False))


def read_result(output_dir: Path) -> tuple[TrialResult, list[EvalPoint]] | None:
    """Return what a trial wrote when it ended; None: it has not ended, or cannot be read."""
    try:
        written = json.loads(_path(output_dir).read_text(encoding="utf-8"))
        return result_of(written["result"]), [EvalPoint(**point) for point in written["points"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def result_of(fields: Mapping[str, Any]) -> TrialResult:
    """Return the result whose fields, as JSON has them, are given."""
    best = fields["best"]
    return TrialResult(**{**fields, "best": None if best is None else EvalPoint(**best)})


def forget_result(output_dir: Path) -> None:
    """The trial begins again."""
    _path(output_dir).unlink(missing_ok=True)


def _path(output_dir: Path) -> Path:
    return output_dir / "result.json"
