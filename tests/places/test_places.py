"""The cheap commands in some of the odd places; `python -m tests.places` has all of them."""

from __future__ import annotations

import os

import pytest

from tests.places.commands import COMMANDS
from tests.places.places import PLACES, Place
from tests.places.rows import Course, lay_out

CHEAP = [place for place in PLACES if place.is_cheap]


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Course:
    folder = tmp_path_factory.mktemp("places")
    (folder / "base").mkdir()  # no cheap command needs a model
    return lay_out(folder, [command for command in COMMANDS if command.is_cheap])


@pytest.mark.parametrize("place", CHEAP, ids=lambda place: ascii(place.name))
def test_a_command_has_its_result_or_says_what_the_place_lacks(
    course: Course, place: Place
) -> None:
    assert course.row(place).wrong == []


def test_the_table_has_thirty_places_and_twelve_commands() -> None:
    assert len({place.name for place in PLACES}) == len(PLACES) >= 30
    assert len({command.name for command in COMMANDS}) == len(COMMANDS) >= 12
    assert all(os.fsencode(place.folder) for place in PLACES)
