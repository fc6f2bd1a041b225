"""Import what trials import: `python -m trials.machine.libraries NAME …` says how it went.

A line of JSON for each, as soon as it is known: an import may crash the process.
"""

import functools
import importlib
import inspect
import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

from trials.parent import run_module

PATIENCE_SECONDS = 280.0
"""The first import of torch from a network's disk takes its time."""


def tried(*names: str) -> dict[str, dict[str, Any]]:
    """Import each in a process of its own; return `error`, or what is known of it."""
    answers: dict[str, dict[str, Any]] = {}
    while left := [name for name in names if name not in answers]:
        output, error = _run(left)
        for line in output.splitlines():
            if line.startswith('{"library": '):
                answer = json.loads(line)
                answers[answer.pop("library")] = answer
        blamed = next((name for name in left if name not in answers), None)
        if blamed is not None:
            answers[blamed] = {"error": error}
    return answers


def _run(names: Sequence[str]) -> tuple[str, str]:
    """Return what the process printed, and why it broke, if it did."""
    try:
        done = run_module(
            "trials.machine.libraries", *names, capture_output=True, timeout=PATIENCE_SECONDS
        )
    except subprocess.TimeoutExpired as late:
        output = late.stdout or b""
        words = f"not imported within {PATIENCE_SECONDS:.0f} s"
        return output.decode() if isinstance(output, bytes) else output, words
    last = (done.stderr.strip().splitlines() or [""])[-1][:200]
    return done.stdout, f"it crashes the process (exit code {done.returncode}) {last}".rstrip()


def look(name: str) -> dict[str, Any]:
    """Import a library; say what of it matters here."""
    try:
        module = importlib.import_module(name)
        more = MORE[name](module) if name in MORE else {}
    except Exception as error:  # ImportError, an OSError of a library, a RuntimeError of CUDA's
        line = (str(error).strip().splitlines() or ["no message"])[0]
        return {"error": f"{type(error).__name__}: {line[:300]}"}
    return {"version": _version(name), **more}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "of unknown version"


@functools.cache
def varlen_attn() -> Callable[..., Any]:
    """Return torch's attention of rows that lie end to end: query and key may differ in heads.

    Raises:
        ImportError: torch has none, or none that takes a scale and a window (before 2.11).
    """
    from torch.nn.attention import varlen

    taken = inspect.signature(varlen.varlen_attn).parameters
    if not {"scale", "window_size"} <= taken.keys():
        raise ImportError("torch's varlen_attn takes no scale and no window: it is too old")
    if "enable_gqa" not in taken:  # it needs no such word
        return varlen.varlen_attn
    return functools.partial(varlen.varlen_attn, enable_gqa=True)


def _has_varlen_attn() -> bool:
    try:
        return bool(varlen_attn())
    except ImportError:
        return False


def _of_torch(torch: Any) -> dict[str, Any]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    cards = [torch.cuda.get_device_properties(index) for index in range(n_gpus)]
    return {
        "cuda": torch.version.cuda,
        "why": " ".join(str(said[0].message).split())[:300] if said else None,
        "gpus": [f"{card.name}, {card.total_memory / 2**30:.1f} GiB" for card in cards],
        "capability": min(((card.major, card.minor) for card in cards), default=None),
        "has_varlen_attn": _has_varlen_attn(),
    }


def _of_bitsandbytes(bitsandbytes: Any) -> dict[str, Any]:
    """Its library is found missing only where it is called."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    packed, state = bitsandbytes.functional.quantize_4bit(torch.ones(64, 64, device=device))
    back = bitsandbytes.functional.dequantize_4bit(packed, state)
    if not torch.allclose(back, torch.ones_like(back), atol=0.01):
        raise RuntimeError("4 bits of ones are not ones")
    library = type(bitsandbytes.cextension.lib).__name__
    return {"is_native": "Mock" not in library, "device": device}


MORE = {"torch": _of_torch, "bitsandbytes": _of_bitsandbytes}

if __name__ == "__main__":
    for _name in sys.argv[1:]:
        print("\n" + json.dumps({"library": _name, **look(_name)}), flush=True)
