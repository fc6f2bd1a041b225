"""One cell of the zoo: an architecture in a precision, used as a sweep uses it, beside the plain
way. What is beyond its limit, or fails, is wrong."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.zoo.bench import Bench, in_words, weight_names
from tests.zoo.checks import OF_AN_ADAPTER, OF_THE_BASE, Check, base_loss, modules_of_presets
from trials.config import UserError

EXPERTS = re.compile(r"\.experts\.|\.block_sparse_moe\.input_linear\.")
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")


def measured(name: str, precision: str, folder: Path, work: Path) -> dict[str, Any]:
    """Measure a cell.

    Args:
        folder: Of the model.
        work: What the cell writes; left there.
    """
    began = time.monotonic()
    bench = Bench(folder, precision, work)
    refused = _refused(bench)
    if refused is None:
        _see_plain(bench)
        with bench.guarded("load"):
            assert bench.base
    if refused is None and not bench.faults:
        _run(OF_THE_BASE + OF_AN_ADAPTER, bench)
        _run_with_experts(bench)
    return {
        "architecture": name,
        "precision": precision,
        "verdict": "refused" if refused else "WRONG" if bench.faults else "right",
        "words": [refused] if refused else bench.faults,
        "notes": bench.notes,
        "modules": bench.modules,
        "measured": bench.numbers,
        "seconds": round(time.monotonic() - began, 1),
        **made(),
    }


def made() -> dict[str, Any]:
    """When, and with what."""
    return {
        "date": date.today().isoformat(),
        "versions": {library: version(library) for library in LIBRARIES},
    }


def _refused(bench: Bench) -> str | None:
    """What `sweep check` refuses the model with."""
    try:
        bench.prepare()
    except UserError as error:
        return str(error)
    return None


def _see_plain(bench: Bench) -> None:
    """Note it where the libraries themselves fail: then the check before a sweep must refuse."""
    try:
        bench.plain.losses(bench.sample())
    # Exception: as of `Bench.guarded`.
    except Exception as error:
        bench.notes.append(f"transformers itself fails: {in_words(error)}")


def _run_with_experts(bench: Bench) -> None:
    """The same once more with the routed experts trained, where there are any."""
    if not any(EXPERTS.search(name) for name in weight_names(bench.folder)):
        return
    asked = Bench(bench.folder, bench.precision, bench.work / "experts", experts=True)
    refused = _refused(asked)
    if refused is not None:
        bench.notes.append(f"experts refused: {refused}")
        return
    _run((modules_of_presets, base_loss, *OF_AN_ADAPTER), asked)
    bench.faults += [f"experts: {words}" for words in asked.faults]
    bench.notes += [f"experts: {words}" for words in asked.notes]
    bench.numbers |= {f"experts: {name}": value for name, value in asked.numbers.items()}
    bench.modules |= {f"experts: {preset}": kinds for preset, kinds in asked.modules.items()}


def _run(checks: Sequence[Check], bench: Bench) -> None:
    for check in checks:
        with bench.guarded(check.__name__):
            for finding in check(bench):
                highest = max(float(finding.value), bench.numbers.get(finding.name, -math.inf))
                bench.numbers[finding.name] = highest
                if not finding.is_right:
                    bench.faults.append(str(finding))
