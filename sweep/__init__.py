"""Finds good LoRA and QLoRA hyperparameters; from Python, `sweep.run("space.yaml")`."""

import sys

# `python -m sweep` puts the current folder first, where a `torch.py` is no module of ours.
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path and __path__ != [f"{sys.path[0]}/sweep"]:
    del sys.path[0]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sweep.api import SweepResult, read_result, run

__all__ = ["SweepResult", "read_result", "run"]


def __getattr__(name: str) -> object:
    """Import what is asked for when it is: a command shall hear Ctrl-C before it imports much."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sweep import api

    return getattr(api, name)
