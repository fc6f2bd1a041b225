"""A file of rows, whatever its kind."""

import difflib
import shlex
from pathlib import Path

from trials.config import DataError
from trials.data.addresses import fetched, file_name
from trials.data.parquet import read_parquet
from trials.data.table import KNOWN_SUFFIXES, Table, check_size, data_suffix
from trials.data.text_files import read_text


def read_file(path: Path) -> Table:
    """Return the rows of a local file, whose format is told by its suffix.

    Raises:
        DataError: The file as a whole cannot be read. What is wrong with single rows is in
            `problems`.
    """
    working_dir = Path.cwd()
    title = str(path.relative_to(working_dir) if path.is_relative_to(working_dir) else path)
    try:
        _check_path(path, title)
        check_size(path.stat().st_size, title)
        data = path.read_bytes()
    except PermissionError:
        mend = f"chmod u+r {shlex.quote(title)}"
        raise DataError(f"no permission to read {title}. Its owner can give it: {mend}") from None
    except OSError as error:
        raise DataError(f"{title} cannot be read: {error.strerror or error}.") from None
    return _table(data, title, path.name)


def read_address(address: str) -> Table:
    """Return the rows of a file in an object store, such as `s3://bucket/train.jsonl`.

    Raises:
        DataError: As for a local file, or it could not be fetched.
    """
    title, name = address.partition("?")[0], file_name(address)
    if data_suffix(name) is None:
        raise DataError(
            f"the suffix of {title} must be {KNOWN_SUFFIXES}, since it tells the format."
        )
    return _table(fetched(address, check_size=lambda n: check_size(n, title)), title, name)


def _table(data: bytes, title: str, name: str) -> Table:
    if not data:
        raise DataError(f"{title} must hold rows, but it is empty (0 bytes).")
    if data.startswith(b"version https://git-lfs"):
        mend = "Run `git lfs pull` in its folder."
        raise DataError(f"{title} is a git-lfs pointer, not the data itself. {mend}")
    table = Table(title, name)
    if data_suffix(name) == ".parquet":
        read_parquet(data, table)
    else:
        read_text(data, table)
    if not table.rows and not table.problems and not table.bad.kinds:
        raise DataError(f"{title} must hold rows, but it has none.")
    return table


def _check_path(path: Path, title: str) -> None:
    if path.is_dir():
        inside = sorted(file.name for file in path.iterdir() if data_suffix(file.name))
        example = f", such as {Path(title) / inside[0]}" if inside else ""
        raise DataError(f"{title} must be a file, but it is a folder. Name a file{example}.")
    if not path.exists():
        beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, beside, n=1)
        mend = f"; did you mean {Path(title).with_name(close[0])}?" if close else "."
        raise DataError(
            f"no such file: {title}{mend} "
            f"A relative path is taken from the folder of the YAML file."
        )
    if not path.is_file():
        raise DataError(f"{title} must be a regular file, but it is a device or a pipe.")
    if data_suffix(path.name) is None:
        raise DataError(
            f"the suffix of {title} must be {KNOWN_SUFFIXES}, since it tells the format; "
            f"found '{path.suffix}'. Convert the file, or rename it if it is one of these."
        )
