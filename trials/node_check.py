"""What a machine has to train with: `python -m trials.node_check REQUEST` answers in JSON.

It must start where nothing is installed yet, so it imports nothing at its top.
"""

import contextlib
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

OLDEST_PYTHON = (3, 11)
LEAST_FREE_BYTES = 2 * 10**9
"""For a base model in 4 bits, checkpoints and adapters; large models take more."""
HARD_TO_IMPORT = ("torch", "transformers", "peft", "bitsandbytes")
"""Those whose libraries may not fit the machine although they are installed."""


def look(request: dict[str, Any]) -> dict[str, Any]:
    """Return what is wrong with this machine, each in words, and what it has.

    Args:
        request: `model`: as `trials.preparation.prepare` names it, with its revision;
            `requirements`: of this program; `has_gpus`: whether Ray counts GPUs here.
    """
    problems = []
    if sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        problems.append(f"Python is {sys.version.split()[0]}, but must be {oldest} or later.")
    missing = _missing(request["requirements"])
    if missing:
        problems.append(
            f"packages: {'; '.join(missing)}. Install them into the environment that Ray runs in: "
            f"pip install -c constraints.txt -e '.[cluster]' in a clone of this program."
        )
    elif not problems:
        problems += _broken(has_gpus=request["has_gpus"])
        problems += [] if problems else _unreachable(request["model"], request["revision"])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    problems += little_room(cache, "the cache")
    found = {name: _version(name) for name in ("ray", "torch", "transformers")}
    versions = {name: version for name, version in found.items() if version is not None}
    return {"problems": problems, "python": sys.version.split()[0], "versions": versions}


def _missing(requirements: list[str]) -> list[str]:
    """Return what is not installed in a version that fits: `optuna is 4.1, not >=5,<6`."""
    from packaging.requirements import Requirement  # Ray needs it too

    missing, wrong = [], []
    for text in requirements:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        there = _version(wanted.name)
        if there is None:
            missing.append(wanted.name)
        elif not wanted.specifier.contains(there, prereleases=True):
            wrong.append(f"{wanted.name} is {there}, not {wanted.specifier}")
    return [*wrong, *([f"not installed: {', '.join(missing)}"] if missing else [])]


def _broken(*, has_gpus: bool) -> list[str]:
    """Say what is installed and does not work, in a process of its own: imports may crash."""
    code = f"import {', '.join(HARD_TO_IMPORT)}; print('\\nCUDA', torch.version.cuda)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return [f"packages: installed, but importing them fails: {last[:300]}"]
    if has_gpus and done.stdout.strip().endswith("CUDA None"):
        return ["torch is a CPU build, but Ray has GPUs here: install its CUDA build."]
    return []


def _unreachable(name: str, revision: str | None) -> list[str]:
    from trials.models.smollm2 import is_builtin, smollm2_dir

    if is_builtin(name):
        try:
            smollm2_dir(say=lambda _: None)
        except Exception as error:  # pip's, or the disk's: in words already
            return [f"base_model {name}: {_first_line(error)}"]
        return []
    folder = Path(name)
    if folder.is_absolute() or folder.is_dir():
        if (folder / "config.json").is_file():
            return []
        return [
            f"base_model: {name} must be a model's folder on every machine, but is not on this "
            f"one. Copy it there, or name a hub id."
        ]
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(name, "config.json", revision=revision)
    except Exception as error:  # its own, httpx's, the system's
        return [
            f"base_model: {name} is not in this machine's cache, and the hub does not give it: "
            f"{_first_line(error)} Check the network, its licence and HF_TOKEN (--env HF_TOKEN)."
        ]
    return []


def little_room(folder: Path, what: str) -> list[str]:
    """Say that there is too little room for a folder, which may not be there yet."""
    import shutil

    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not os.access(there, os.W_OK):
        return [f"{what}, {folder}: cannot be written to."]
    free = shutil.disk_usage(there).free
    if free >= LEAST_FREE_BYTES:
        return []
    return [
        f"{what}, {folder}: {free / 1e9:.1f} GB are free, but a sweep needs "
        f"{LEAST_FREE_BYTES / 1e9:.0f} GB."
    ]


def _version(package: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line[:300].rstrip(".:") + "."


if __name__ == "__main__":
    print("\n" + json.dumps(look(json.loads(sys.argv[1]))))
