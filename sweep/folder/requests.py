"""What a person asks of a running sweep, as files in its folder: stop, prune."""

from pathlib import Path

from sweep.folder import layout


def ask_to_stop(folder: Path) -> None:
    """Leave word for the process that runs the sweep, on whatever machine it is."""
    (folder / layout.STOP).touch()


def is_asked_to_stop(folder: Path) -> bool:
    return (folder / layout.STOP).exists()


def ask_to_prune(folder: Path, number: int) -> None:
    """Leave word that a trial shall end; it is heard at the trial's next evaluation."""
    layout.prune_request(folder, number).touch()


def is_asked_to_prune(folder: Path, number: int) -> bool:
    return layout.prune_request(folder, number).exists()


def forget_prune(folder: Path, number: int) -> None:
    """Take the word away: the trial has ended."""
    layout.prune_request(folder, number).unlink(missing_ok=True)
