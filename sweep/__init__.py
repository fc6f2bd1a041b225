"""Finds good LoRA and QLoRA hyperparameters; from Python, `sweep.run("space.yaml")`."""

from sweep.api import SweepResult, read_result, run

__all__ = ["SweepResult", "read_result", "run"]
