"""What a machine has to train with: `python -m trials.node_check REQUEST` answers in JSON.

One list for `sweep doctor` and for `sweep submit`. It must start where nothing is installed yet.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trials.config import ConfigError
from trials.machine import cards, disk, packages
from trials.machine.cache import MEND
from trials.machine.finding import Finding


def look(request: dict[str, Any]) -> dict[str, Any]:
    """Return what was found of this machine.

    Args:
        request: `model`: as `trials.preparation.prepare` names it, or None; `revision`: its;
            `requirements`: of this program; `has_gpus`: whether there are GPUs to be used here.
    """
    findings = list(_look(request))
    found = {name: packages.version_of(name) for name in ("ray", "torch", "transformers")}
    versions = {name: version for name, version in found.items() if version is not None}
    return {
        "findings": [asdict(finding) for finding in findings],
        "problems": [each.words for each in findings if each.grade == "cannot"],
        "notes": [each.words for each in findings if each.grade == "slower"],
        "python": sys.version.split()[0],
        "versions": versions,
    }


def _look(request: dict[str, Any]) -> Iterator[Finding]:
    has_gpus = request["has_gpus"]
    found: list[cards.Card] = []
    if has_gpus:
        try:
            there = cards.cards() or []
            found = cards.visible(there)
            if there and not found:
                words = f"{len(there)}, but CUDA_VISIBLE_DEVICES names none of them"
                yield Finding("GPUs", words, "Correct it, or unset it.", "cannot")
        except cards.NoAnswer as error:
            yield Finding("driver", str(error), "Install the driver, or start it anew.", "cannot")
        if found:
            yield Finding("driver", found[0].driver)
        yield from cards.look(found)
    python, installed = packages.python(), packages.installed(request["requirements"])
    yield from (python, installed)
    if "cannot" not in (python.grade, installed.grade):
        broken = False
        for finding in packages.working(has_gpus=has_gpus, cards=found):
            broken = broken or finding.grade == "cannot"
            yield finding
        if request["model"] is not None and not broken:
            yield _model(request["model"], request["revision"])
    yield from _cache()


def _cache() -> Iterator[Finding]:
    """Room for it, and what lies in it; or why it cannot be used."""
    try:
        yield disk.cache_room()
        yield disk.quantised()
    except (ConfigError, OSError) as error:  # somebody else's; a folder that cannot be entered
        yield Finding("cache", str(error).removesuffix(MEND).rstrip(". "), MEND, "cannot")


def _model(name: str, revision: str | None) -> Finding:
    found, mend = _unreachable(name, revision)
    if mend is None:
        return Finding("base_model", found)
    return Finding("base_model", found, mend, "cannot")


def _unreachable(name: str, revision: str | None) -> tuple[str, str | None]:
    """Return what is found, and the mend where it cannot be read here."""
    from trials.models.smollm2 import is_builtin, smollm2_dir

    if is_builtin(name):
        try:
            smollm2_dir(say=lambda _: None)
        except Exception as error:  # pip's, or the disk's: in words already
            return f"{name}: {_first_line(error)}", "Check the network and pip."
        return f"{name} is built in", None
    folder = Path(name)
    if folder.is_absolute() or folder.is_dir():
        if (folder / "config.json").is_file():
            return f"{name} is there", None
        return (
            f"{name} must be a model's folder on every machine, but is not on this one",
            "Copy it there, or name a hub id.",
        )
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(name, "config.json", revision=revision)
    except Exception as error:  # its own, httpx's, the system's
        words = f"{name} is not in this machine's cache, and the hub does not give it"
        mend = "Check the network, its licence and HF_TOKEN (--env HF_TOKEN)."
        return f"{words}: {_first_line(error)}", mend
    return f"{name} can be read", None


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line[:300].rstrip(".:")


if __name__ == "__main__":
    print("\n" + json.dumps(look(json.loads(sys.argv[1]))))
