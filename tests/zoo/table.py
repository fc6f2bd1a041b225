"""The page of the zoo: `python -m tests.zoo.table DIR` writes the tables of tests/zoo/README.md."""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.zoo.architectures import ARCHITECTURES

PRECISIONS = {"nf4": "nf4", "int8": "int8", "none": "none, 16 bits", "float32": "none, float32"}
PRESETS = ("all-linear", "attention", "mlp", "qv")
PAGE = Path(__file__).parent / "README.md"
MARK = "<!-- What stands below is written by `python -m tests.zoo.table`. -->\n"

Cell = dict[str, Any]
Cells = dict[str, dict[str, Cell]]
"""By architecture and precision."""


def main() -> None:
    """Put the tables of DIR's cells in place of the page's."""
    parser = argparse.ArgumentParser(prog="python -m tests.zoo.table", description=__doc__)
    parser.add_argument("out", type=Path, metavar="DIR", help="the zoo's --out")
    parser.add_argument("--say", action="store_true", help="print what is wrong; write nothing")
    asked = parser.parse_args()
    cells = read(asked.out)
    if asked.say:
        print("\n".join(_list(cells, _told("WRONG"))))
        return
    above, _, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    PAGE.write_text(above + MARK + "\n" + page(cells), encoding="utf-8")


def read(out: Path) -> Cells:
    """Return the cells that are there, in the order of the architectures."""
    found: Cells = defaultdict(dict)
    for name in ARCHITECTURES:
        for precision in PRECISIONS:
            path = out / "cells" / f"{name}.{precision}.json"
            if path.exists():
                found[name][precision] = json.loads(path.read_text(encoding="utf-8"))
    return found


def page(cells: Cells) -> str:
    """Return the tables, and in words what is refused and what is wrong."""
    every = [cell for of_name in cells.values() for cell in of_name.values()]
    dates = sorted({cell["date"] for cell in every})
    versions = sorted({f"{k} {v}" for cell in every for k, v in cell["versions"].items()})
    counts = [
        f"{sum(cell['verdict'] == verdict for cell in every)} {words}"
        for verdict, words in (("right", "right"), ("refused", "refused"), ("WRONG", "wrong"))
    ]
    parts = [
        f"Measured on {' to '.join(dict.fromkeys((dates[0], dates[-1])))} with "
        f"{', '.join(versions)}, on CPUs: {len(cells)} architectures, {', '.join(counts)} cells.",
        "## Cells",
        "\n".join(_verdicts(cells)),
        "## What a preset adapts",
        "\n".join(_presets(cells)),
    ]
    lists = {
        "## What is refused": _told("refused"),
        "## What is wrong": _told("WRONG"),
        "## What transformers itself does not do": _of_transformers,
    }
    for heading, told in lists.items():
        if lines := list(_list(cells, told)):
            parts += [heading, "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _verdicts(cells: Cells) -> Iterator[str]:
    yield f"| architecture | {' | '.join(PRECISIONS.values())} | packed | with `experts` |"
    yield "|---" * (len(PRECISIONS) + 3) + "|"
    for name, of_name in cells.items():
        verdicts = [_verdict(of_name.get(precision)) for precision in PRECISIONS]
        yield f"| {name} | {' | '.join([*verdicts, _packed(of_name), _experts(of_name)])} |"


def _verdict(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return "**wrong**" if cell["verdict"] == "WRONG" else str(cell["verdict"])


def _packed(of_name: dict[str, Cell]) -> str:
    told = {
        "no" if "not packed" in cell["notes"] else "yes"
        for cell in of_name.values()
        if "not packed" in cell["notes"] or "packed rows leak" in cell["measured"]
    }
    return " or ".join(sorted(told))


def _experts(of_name: dict[str, Cell]) -> str:
    told = {_experts_of(cell) for cell in of_name.values()} - {""}
    return " or ".join(sorted(told))


def _experts_of(cell: Cell) -> str:
    if any(note.startswith("experts refused") for note in cell["notes"]):
        return "refused"
    if any(words.startswith("experts: ") for words in cell["words"]):
        return "**wrong**"
    return "right" if any(name.startswith("experts: ") for name in cell["measured"]) else ""


def _presets(cells: Cells) -> Iterator[str]:
    yield f"| architecture | {' | '.join(f'`{preset}`' for preset in PRESETS)} | left out |"
    yield "|---" * (len(PRESETS) + 2) + "|"
    for name, of_name in cells.items():
        every = [cell["modules"] for cell in of_name.values() if cell["modules"]]
        modules = every[0] if every else {}
        shown = [_kinds(modules.get(preset, "")) for preset in (*PRESETS, "left out")]
        yield f"| {name} | {' | '.join(shown)} |"


def _kinds(kinds: dict[str, int] | str) -> str:
    if isinstance(kinds, str):
        return kinds.partition(":")[0]
    return ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items()))


def _told(verdict: str) -> Callable[[Cell], list[str]]:
    return lambda cell: cell["words"] if cell["verdict"] == verdict else []


def _of_transformers(cell: Cell) -> list[str]:
    own = "transformers itself "
    return [note.removeprefix(own) for note in cell["notes"] if note.startswith(own)]


def _list(cells: Cells, told: Callable[[Cell], list[str]]) -> Iterator[str]:
    """One line for each kind of words, with the cells that have them."""
    examples: dict[str, str] = {}
    places: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, of_name in cells.items():
        for precision, cell in of_name.items():
            for words in told(cell):
                kind = _kind(words, name)
                examples.setdefault(kind, re.sub(r"/\S*/", "", words))  # no folder of a machine
                places[kind][name].append(precision)
    for kind in sorted(places, key=lambda kind: -len(places[kind])):
        shown = (f"{name} ({_shown(found)})" for name, found in places[kind].items())
        yield f"- {' '.join(examples[kind].split())}: {', '.join(shown)}"


def _shown(precisions: Sequence[str]) -> str:
    unique = list(dict.fromkeys(precisions))
    return "all" if len(unique) == len(PRECISIONS) else ", ".join(unique)


def _kind(words: str, name: str) -> str:
    """Words without what differs between two cells of the same fault, or two checks of one cell."""
    words = re.sub(r": (?:\d[\d.e+-]*|inf|nan)\b(.*); at most", r"\1; at most", words)
    words = re.sub(r"/\S*|\{[^}]*\}|'[^']*'|\([^()]*\)", "…", words.replace(name, "…"))
    return re.sub(
        r"^(experts: )?\w+: (?=\w+(?:Error|Clean))", r"\1", re.sub(r"\d[\d.]*", "#", words)
    )


if __name__ == "__main__":
    main()
