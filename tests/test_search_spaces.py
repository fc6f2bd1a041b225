"""The spaces that people copy: each loads, opens with its command and says why its ranges are."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from sweep.space.hyperparameters import Choices, TimesRank
from sweep.space.loading import Space, load_space

SPACES_DIR = Path(__file__).parents[1] / "search_spaces"
SPACES = sorted(SPACES_DIR.glob("*.yaml"))

every_space = pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)


@pytest.fixture
def spaces_dir(tmp_path: Path) -> Path:
    """A copy of the folder with the data/train.jsonl that a user would put there."""
    copy = tmp_path / SPACES_DIR.name
    shutil.copytree(SPACES_DIR, copy, ignore=shutil.ignore_patterns(".*"))
    (copy / "data").mkdir(exist_ok=True)
    (copy / "data" / "train.jsonl").write_text('{"prompt": "2 + 2 =", "completion": " 4"}\n')
    return copy


def searched(space: Space) -> list[str]:
    """The hyperparameters that have more than one value."""
    factors = {
        name: domain.factor if isinstance(domain, TimesRank) else domain
        for name, domain in space.domains.items()
    }
    return [
        name
        for name, domain in factors.items()
        if not (isinstance(domain, Choices) and len(domain.values) == 1)
    ]


def has_comment(text: str, name: str) -> bool:
    """Whether the search has a comment on the line of `name`, or on the one above."""
    lines = text.splitlines()
    search = lines.index("search:")
    at = next(n for n in range(search, len(lines)) if re.match(rf"  {name}:", lines[n]))
    return " #" in lines[at] or lines[at - 1].lstrip().startswith("#")


def test_there_are_spaces() -> None:
    assert len(SPACES) >= 3


@every_space
def test_a_space_loads_and_searches(path: Path, spaces_dir: Path) -> None:
    assert searched(load_space(spaces_dir / path.name))


@every_space
def test_a_space_opens_with_the_command_that_runs_it(path: Path) -> None:
    assert path.read_text().splitlines()[0] == f"# sweep run search_spaces/{path.name}"


@every_space
def test_each_searched_range_has_a_comment(path: Path, spaces_dir: Path) -> None:
    space = load_space(spaces_dir / path.name)
    assert [name for name in searched(space) if not has_comment(path.read_text(), name)] == []


def test_names_are_unlike() -> None:
    names = re.findall(r"^name: (.+)$", "\n".join(path.read_text() for path in SPACES), re.M)
    assert len(names) == len(set(names)) == len(SPACES)
