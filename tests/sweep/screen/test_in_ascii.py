"""Where only ASCII can be written, signs have a form of it, and nothing fails."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.panel import Panel

from sweep.screen.in_ascii import write_forms
from sweep.screen.table import LEVELS, sparkline


def written(text: str, encoding: str = "ascii") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
    write_forms(stream)
    stream.write(text)
    stream.flush()
    return raw.getvalue().decode("latin-1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("α 16 → 32", "alpha 16 -> 32"),
        ("0.5 ± 0.1, 2 × 3 …", "0.5 +- 0.1, 2 x 3 ..."),
        ("✓ ready ✗ broken", "+ ready x broken"),
        ("┏━┓┃", "+-+|"),
        ("Größe é", "Grosse e"),
        ("数\udcff", "??"),
    ],
)
def test_signs_are_written_in_ascii(text: str, expected: str) -> None:
    assert written(text) == expected


def test_what_an_encoding_has_stays() -> None:
    assert written("α ± é", "latin-1") == "alpha ± é"
    assert written("α ± é\udcff", "utf-8").encode("latin-1").decode() == "α ± é?"


def test_a_curve_keeps_its_length_and_its_heights() -> None:
    curve = sparkline([2.0, 1.5, 1.2, 1.1, 1.0], width=5)
    assert len(written(curve)) == 5
    assert len(set(written(LEVELS))) == len(LEVELS)


def test_rich_draws_its_boxes_and_bars(capsys: pytest.CaptureFixture[str]) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    write_forms(stream)
    console = Console(file=stream, force_terminal=True, width=20)
    console.print(Panel("α … ×"))
    with console.status("Looking …"):
        pass
    stream.flush()
    assert b"alpha ... x" in raw.getvalue()
    assert raw.getvalue().isascii()
