"""Finds good LoRA and QLoRA hyperparameters; from Python, `sweep.run("space.yaml")`."""

import sys

# `python -m sweep` puts the current folder first, where a `torch.py` is no module of ours.
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path and __path__ != [f"{sys.path[0]}/sweep"]:
    del sys.path[0]

from sweep.api import SweepResult, read_result, run

__all__ = ["SweepResult", "read_result", "run"]
