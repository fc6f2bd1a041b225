"""What a person asks of a running sweep, as files in its folder: stop, prune."""

from __future__ import annotations

from pathlib import Path


def ask_to_stop(folder: Path) -> None:
    """Leave word for the process that runs the sweep, on whatever machine it is."""
    (folder / "stop").touch()


def is_asked_to_stop(folder: Path) -> bool:
    """Whether somebody has left word."""
    return (folder / "stop").exists()


def ask_to_prune(folder: Path, number: int) -> None:
    """Leave word that a trial shall end; it is heard at the trial's next evaluation."""
    _prune_word(folder, number).touch()


def is_asked_to_prune(folder: Path, number: int) -> bool:
    """Whether somebody has left word."""
    return _prune_word(folder, number).exists()


def forget_prune(folder: Path, number: int) -> None:
    """Take the word away: the trial has ended."""
    _prune_word(folder, number).unlink(missing_ok=True)


def _prune_word(folder: Path, number: int) -> Path:
    return folder / f"prune-{number:03d}"
