"""The commands that are given in each place, as a user types them in the sweep's folder."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    """One column of the table.

    Args:
        name: Of the column.
        words: After `sweep`; `{space}`, `{train}` and `{output}` are the place's names.
        code: Its exit code in a plain place.
    """

    name: str
    words: str
    code: int = 0
    is_quick: bool = True
    """Takes about a second, most of it for imports: it may share a process with others."""
    is_cheap: bool = False
    """Whether the ordinary tests give it: quick, and without a sweep that has run."""


COMMANDS = (
    Command("doctor", "doctor --output {output} --workers 1", is_quick=False),
    Command("init", "init {train} new.yaml --model {base}", is_quick=False),
    Command("check", "check {space} --workers 1 --rows 1", is_quick=False),
    Command("run", "run {space} --workers 1 --output {output}", is_quick=False),
    Command("schema", "schema", is_cheap=True),
    Command("list", "list --output {output}", is_cheap=True),
    Command("status", "status tiny --output {output}"),
    Command("show", "show tiny --output {output}"),
    Command("show 1 --json", "show tiny 1 --json --output {output}"),
    Command("show 1 --plot", "show tiny 1 --plot --output {output}"),
    Command("show --csv", "show tiny --csv --output {output}"),
    Command("best", "best tiny --output {output}"),
    Command("best --yaml", "best tiny --yaml trl --output {output}"),
    Command("compare", "compare tiny:0 tiny:1 --output {output}"),
    Command("report", "report tiny --output {output}"),
    Command("export", "export tiny --to exported --no-check --output {output}"),
    Command("clean", "clean tiny --output {output}"),
    Command("sync", "sync tiny --output {output}"),
    Command("stop", "stop tiny --output {output}", code=1),
    Command("prune", "prune tiny 0 --output {output}", code=1),
    Command("export, checked", "export tiny --to checked --output {output}", is_quick=False),
    Command("try", "try tiny oslo --output {output}", is_quick=False),
    Command("trial", "trial {space} --workers 1 --output {output}", is_quick=False),
    Command(
        "confirm", "confirm tiny --top 1 --seeds 1 --workers 1 --output {output}", is_quick=False
    ),
)
