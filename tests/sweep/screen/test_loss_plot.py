"""A trial's losses in plain characters: what is where, and nothing that ASCII lacks."""

from __future__ import annotations

from sweep.screen.in_ascii import NAME, register
from sweep.screen.loss_plot import HEIGHT, loss_plot

EPOCHS = [1.0, 2.0, 3.0, 4.0]
TRAIN = [2.0, 1.6, 1.2, 1.0]


def plot(evals: list[float | None], *, overfits: bool = True, width: int = 80) -> list[str]:
    return loss_plot(EPOCHS, evals, TRAIN, kept=1, overfits=overfits, width=width)


def test_a_plot_keeps_to_its_columns_and_to_ascii() -> None:
    register()
    lines = plot([2.0, 1.8, 1.9, 2.0])
    assert max(map(len, lines)) <= 80
    assert "\n".join(lines).encode("ascii", NAME).isascii()


def test_the_best_evaluation_is_marked_and_what_comes_after_it_shaded() -> None:
    rows = [line[9:].ljust(70) for line in plot([2.0, 1.8, 1.9, 2.0])[:HEIGHT]]
    [at] = [line.index("@") for line in rows if "@" in line]
    assert at == round(69 / 3)
    assert all(":" not in line[: at + 1] for line in rows)
    assert all(":" in line[at:] for line in rows)
    assert rows[0][0] == rows[0][-1] == "o"
    assert rows[-1][-1] == "."


def test_what_did_not_overfit_is_not_shaded() -> None:
    assert ":" not in "".join(plot([2.0, 1.8, 1.9, 2.0], overfits=False))


def test_a_first_evaluation_far_above_the_rest_does_not_flatten_it() -> None:
    lines = plot([90.0, 1.8, 1.9, None], overfits=False)
    assert float(lines[0][:7]) < 5
    assert lines[0][9] == "^"
    assert "^ higher" in lines[-1]


def test_a_single_evaluation_is_a_point() -> None:
    lines = loss_plot([1.0], [2.0], [None], kept=0, overfits=False, width=80)
    assert "".join(lines[:HEIGHT]).count("@") == 1
