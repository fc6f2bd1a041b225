"""Python imports this by itself, from the PYTHONPATH: one worker sticks in one step, for ever.

`SWEEP_FAULTS_STUCK` names the file that tells all others that it has happened;
`SWEEP_FAULTS_STUCK_STEP` is the step.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any


class _Sticks(MetaPathFinder):
    """Changes `trials.training.learner` when it is imported, without importing it (and torch)."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "trials.training.learner":
            return None
        spec = PathFinder.find_spec(name, path)
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def load_and_change(module: ModuleType) -> None:
            load(module)
            _change(module.Learner)

        spec.loader.exec_module = load_and_change  # type: ignore[method-assign]
        return spec


def _change(learner: Any) -> None:
    take_step = learner.take_step
    happened = Path(os.environ["SWEEP_FAULTS_STUCK"])
    chosen = int(os.environ["SWEEP_FAULTS_STUCK_STEP"])

    def take_step_or_stick(self: Any, step: int) -> None:
        if step == chosen:
            try:
                happened.touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                print(f"stuck in step {step}", flush=True)
                time.sleep(10**6)
        take_step(self, step)

    learner.take_step = take_step_or_stick


if "SWEEP_FAULTS_STUCK" in os.environ:
    sys.meta_path.insert(0, _Sticks())
