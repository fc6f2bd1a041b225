"""What an earlier call has prepared, and whether it is still whole."""

from pathlib import Path
from typing import Any

from trials.config import DataError
from trials.data.digests import KEY, damaged
from trials.data.tokens import TokenSplit, sample_tokens
from trials.trial_folder import EVAL_SAMPLE, read_report

Report = dict[str, Any]


def found_before(folder: Path) -> Report | None:
    """Return the report of a prepared folder; None: there is none, or it cannot be read."""
    try:
        found = read_report(folder)
    except DataError as error:
        print(error, flush=True)
        return None
    return found if found and {"content", "sample_rows"} <= found.keys() else None


def is_as_prepared(folder: Path, report: Report) -> bool:
    """Whether the files are those that were prepared; says which are not."""
    names = damaged(folder, report) if KEY in report else _broken(folder)
    if names:
        print(f"{folder}: {', '.join(names)} changed since; the rows are prepared anew", flush=True)
    return not names


def _broken(folder: Path) -> list[str]:
    """Splits that cannot be loaded, of a version that noted no digests."""
    found = []
    for name in ("train", "eval", "sample"):
        try:
            TokenSplit.load(folder / name)
        except (OSError, ValueError, EOFError):
            found.append(name)
    return found


def earlier_tokens(folder: Path, report: Report) -> Report | None:
    """The eval sample of a version before format 4, which noted no digest of it: the sweep's study
    may go on only if its tokens are still the same. Handed on from folder to folder."""
    sample = folder / EVAL_SAMPLE
    if "sample_tokens" in report or not sample.exists():
        found: Report | None = report.get("earlier_sample_tokens")
        return found
    try:
        return sample_tokens(sample)
    except (ValueError, KeyError):  # it is broken: nobody knows any more
        return None
