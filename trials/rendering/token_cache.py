"""Tokenised splits in the user's cache: made once on a node, for every sweep that reads them.

`<cache>/sweep/tokens/<key>/` holds the arrays of a `TokenSplit`, what was seen of its rows and
`sha256.json`. The key tells the content, so an entry is never out of date; the folder may be
deleted at any time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from trials.data.tokens import PARTS, TokenSplit
from trials.machine import cache
from trials.rendering.renderer import LossOn, RowCounts
from trials.whole_file import link_or_copy

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 2
"""Of an entry, and of the way in which rows become tokens: raise it when either changes."""
_COUNTS = "counts.json"


def cache_dir() -> Path:
    return cache.cache_dir() / "tokens"


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the SHA-256 of all that a tokenizer does; None where that cannot be told.

    Take it before the tokenizer is first used: what it remembers of a call would be in it.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # written in Python
        return None
    special_tokens = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return _sha256([backend.to_str(), tokenizer.chat_template, special_tokens])


def key(*, rows: str, tokenizer: str, chat: bool, loss_on: LossOn, given: str = "") -> str:
    """Return the name of the entry of a split.

    Args:
        rows: Their fingerprint.
        tokenizer: Its digest.
        given: What the chat template is given beside the turns (`chat_templates.given`).
    """
    return _sha256([FORMAT, rows, tokenizer, chat, loss_on, given])


Made = tuple[TokenSplit, RowCounts]


def place(path: Path, key: str | None, make: Callable[[], Made]) -> Made:
    """Put the split of `key` at `path`, as `TokenSplit.save` would, and return it mapped.

    Its files are hard links to those of the entry, or copies on another file system, so they
    outlive it. Only one process makes an entry; others wait. A cache that cannot be written is
    done without.

    Args:
        key: None for a split that is not to be kept.
        make: Called when there is no whole entry.
    """
    made = None
    try:
        if key is not None:
            entry = cache_dir() / key
            with _locked(entry):
                if not _is_whole(entry):
                    made = make()
                    _write(made, entry)
                _link(entry, path)
                counts = RowCounts(**json.loads((entry / _COUNTS).read_text()))
            return TokenSplit.load(path), counts
    except OSError as error:
        reason = error.strerror or str(error)
        print(f"continuing without the token cache, {cache_dir()}: {reason}", flush=True)
    split, counts = made or make()
    split.save(path)
    return TokenSplit.load(path), counts


def unused() -> list[Path]:
    """Return the entries that no prepared folder is linked to, and the halves of such.

    Where caches and sweeps lie on two file systems there are no links, and every entry is unused:
    sweeps have copies.
    """
    folder = cache_dir()
    entries = sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    return [e for e in entries if all(p.stat().st_nlink == 1 for p in e.glob("rows.*.npy"))]


def drop(entry: Path) -> None:
    """Delete an entry, unless a sweep has begun to use it."""
    with _locked(entry):
        if entry in unused():
            shutil.rmtree(entry, ignore_errors=True)


@contextmanager
def _locked(entry: Path) -> Iterator[None]:
    entry.parent.mkdir(parents=True, exist_ok=True)
    with entry.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another sweep that tokenises the same rows", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield  # closing the file unlocks, also when the process dies


def _is_whole(entry: Path) -> bool:
    """Whether the arrays are those that were written."""
    try:
        digests = json.loads((entry / "sha256.json").read_text())
        return bool(digests == _digests(entry))
    except (FileNotFoundError, ValueError):
        return False


def _write(made: Made, entry: Path) -> None:
    unfinished = entry.with_suffix(".tmp")  # ours alone: the entry is locked
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.rmtree(entry, ignore_errors=True)
    try:
        unfinished.mkdir()
        made[0].save(unfinished / "rows")
        (unfinished / _COUNTS).write_text(json.dumps(asdict(made[1])))
        (unfinished / "sha256.json").write_text(json.dumps(_digests(unfinished)))
        unfinished.rename(entry)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _link(entry: Path, path: Path) -> None:
    for part in PARTS:
        kept, wanted = entry / f"rows.{part}.npy", Path(f"{path}.{part}.npy")
        wanted.unlink(missing_ok=True)
        link_or_copy(kept, wanted)


def _digests(entry: Path) -> dict[str, str]:
    digests = {}
    for name in (*(f"rows.{part}.npy" for part in PARTS), _COUNTS):
        with (entry / name).open("rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _sha256(parts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
