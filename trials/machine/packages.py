"""What is installed on this machine, and whether it works."""

import sys
from collections.abc import Iterator
from importlib import metadata, util
from typing import Any

from trials.machine.cards import Card
from trials.machine.finding import Finding
from trials.machine.libraries import tried

OLDEST_PYTHON = (3, 11)
INSTALL = "pip install -c constraints.txt -e"
HARD_TO_IMPORT = ("torch", "transformers", "peft", "bitsandbytes", "ray")
"""Those whose libraries may not fit the machine although they are installed."""


def version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def python() -> Finding:
    found, oldest = sys.version.split()[0], ".".join(map(str, OLDEST_PYTHON))
    if sys.version_info >= OLDEST_PYTHON:
        return Finding("Python", found)
    return Finding("Python", found, f"It must be {oldest} or later.", "cannot")


def missing(requirements: list[str]) -> list[str]:
    """Return what is not installed in a version that fits: `optuna is 4.1, not >=5,<6`."""
    from packaging.requirements import Requirement  # Ray needs it too

    absent, wrong = [], []
    for text in requirements:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        there = version_of(wanted.name)
        if there is None:
            absent.append(wanted.name)
        elif not wanted.specifier.contains(there, prereleases=True):
            wrong.append(f"{wanted.name} is {there}, not {wanted.specifier}")
    return [*wrong, *([f"not installed: {', '.join(absent)}"] if absent else [])]


def installed(requirements: list[str]) -> Finding:
    """Whether all packages are there, in versions that fit."""
    if not (wrong := missing(requirements)):
        return Finding("packages", "all that this program needs")
    mend = (
        f"Install them into the environment that Ray runs in: {INSTALL} '.[cluster]' in a clone "
        f"of this program."
    )
    return Finding("packages", "; ".join(wrong), mend, "cannot")


def working(*, has_gpus: bool, cards: list[Card]) -> Iterator[Finding]:
    """What works of it. Each is imported in a process of its own, for it may crash."""
    found = tried(*HARD_TO_IMPORT)
    torch = found["torch"]
    yield _driver_and_torch(torch, has_gpus=has_gpus, cards=cards)
    if has_gpus and not cards:
        yield from (Finding(f"GPU {n}", words) for n, words in enumerate(torch.get("gpus", [])))
    yield _bitsandbytes(found["bitsandbytes"])
    for name in ("transformers", "peft", "ray"):
        yield _plain(name, found[name])
    if has_gpus and torch.get("gpus"):
        yield _flash_attention(torch["capability"], has_varlen=torch["has_varlen_attn"])
        yield _unsloth()


def _plain(name: str, answer: dict[str, Any]) -> Finding:
    subject = name.capitalize() if name == "ray" else name
    if error := answer.get("error"):
        mend = f"Install it again: {INSTALL} ."
        return Finding(subject, f"installed, but importing it fails: {error}", mend, "cannot")
    return Finding(subject, answer["version"])


def _driver_and_torch(torch: dict[str, Any], *, has_gpus: bool, cards: list[Card]) -> Finding:
    """The build of torch, and whether the driver carries it."""
    if "error" in torch:
        return _plain("torch", torch)
    build = f"for CUDA {torch['cuda']}" if torch["cuda"] else "a build for processors"
    words = f"{torch['version']}, {build}"
    if not has_gpus or torch["gpus"]:
        return Finding("torch", words)
    if not torch["cuda"]:
        mend = (
            "There are GPUs, which it cannot use. Install its CUDA build: pip install "
            f"--force-reinstall torch=={torch['version'].split('+')[0]}"
        )
        return Finding("torch", words, mend, "cannot")
    driver = f" with driver {cards[0].driver}" if cards else ""
    why = f"{words}, sees no GPU{driver}" + (f": {torch['why']}" if torch["why"] else "")
    mend = f"Install a driver for CUDA {torch['cuda']}, or torch for the CUDA of this driver."
    return Finding("torch", why, mend, "cannot")


def _bitsandbytes(answer: dict[str, Any]) -> Finding:
    if "error" in answer:
        mend = f"Install one that has a library for torch's CUDA: {INSTALL} ."
        words = f"its library does not work: {answer['error']}"
        return Finding("bitsandbytes", words, mend, "cannot")
    place = "GPUs" if answer["device"] == "cuda" else "CPUs"
    words = f"{answer['version']}, 4 bits work on {place}"
    if answer["is_native"]:
        return Finding("bitsandbytes", words)
    mend = f"Its library does not load, so it computes in Python. Install it again: {INSTALL} ."
    return Finding("bitsandbytes", words, mend, "slower")


def _flash_attention(capability: list[int], *, has_varlen: bool) -> Finding:
    """Rows that are packed without it, and without torch's own, need a mask over all pairs of
    their tokens."""
    if capability < [8, 0]:
        return Finding("flash-attn", "not for GPUs before Ampere")
    mend = "Packed rows go without it. pip install --no-build-isolation flash-attn"
    error = None
    if is_there := util.find_spec("flash_attn") is not None:
        answer = tried("flash_attn")["flash_attn"]
        if not (error := answer.get("error")):
            return Finding("flash-attn", answer["version"])
        mend = "It was built for another torch. Build it again, or pip uninstall flash-attn."
    words = f"importing it fails: {error}" if is_there else "not installed"
    if has_varlen:
        return Finding("flash-attn", f"{words}; rows lie end to end by torch's varlen_attn")
    return Finding("flash-attn", words, mend, "slower")


def _unsloth() -> Finding:
    if util.find_spec("unsloth") is None:
        mend = f"Its kernels are faster: {INSTALL} '.[unsloth]'"
        return Finding("Unsloth", "not installed", mend, "slower")
    answer = tried("unsloth")["unsloth"]
    if error := answer.get("error"):
        mend = f"{INSTALL} '.[unsloth]', or pip uninstall unsloth: it is used where it is there."
        return Finding("Unsloth", f"importing it fails: {error}", mend, "cannot")
    return Finding("Unsloth", answer["version"])
