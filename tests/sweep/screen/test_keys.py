"""What keys do."""

from __future__ import annotations

import pytest
from rich.text import Text

from sweep.screen.keys import Keys


class Pressed:
    """Keys, and what they have done."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.keys = Keys(
            stop=lambda: self.done.append("stop"),
            prune=lambda number: self.done.append(f"prune {number}"),
        )

    @property
    def footer(self) -> str:
        footer = self.keys.footer()
        assert footer is not None
        return footer.plain


@pytest.mark.parametrize(
    ("typed", "done"),
    [
        ("s\r", ["stop"]),
        ("s\n", ["stop"]),
        ("p17\r", ["prune 17"]),
        ("p018\x7f7\r", ["prune 17"]),
        ("s", []),
        ("s\x1b\r", []),
        ("p\r", []),
        ("p1\x1b7\r", []),
        ("p3sp4\r", ["prune 4"]),
        ("xyz\r\r", []),
        ("17\r", []),
        ("sp5\r", ["prune 5"]),
        ("p" + "9" * 30 + "\r", ["prune 999999999"]),
    ],
)
def test_nothing_is_done_before_enter(typed: str, done: list[str]) -> None:
    pressed = Pressed()
    for key in typed:
        pressed.keys.press(key)
    assert pressed.done == done


def test_what_was_typed_in_one_go_counts_key_by_key() -> None:
    pressed = Pressed()
    pressed.keys.press("p17\r")
    assert pressed.done == ["prune 17"]


def test_an_arrow_is_no_escape_and_no_letter() -> None:
    pressed = Pressed()
    for typed in ("p", "1", "\x1b[A", "\x1bOp", "2", "\r"):
        pressed.keys.press(typed)
    assert pressed.done == ["prune 12"]


def test_the_line_below_the_table_says_what_enter_would_do() -> None:
    pressed = Pressed()
    assert pressed.footer == "s stop  p prune a trial  ? help"
    pressed.keys.press("p12")
    assert pressed.footer.startswith("Prune trial 12")
    pressed.keys.press("s")
    assert pressed.footer.startswith("Stop the sweep?")


def test_a_question_mark_opens_and_closes_the_help() -> None:
    pressed = Pressed()
    assert pressed.keys.help() is None
    pressed.keys.press("?")
    shown = pressed.keys.help()
    assert isinstance(shown, Text) and "sweep prune" in shown.plain
    pressed.keys.press("?")
    assert pressed.keys.help() is None
