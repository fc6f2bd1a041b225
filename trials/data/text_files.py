"""Read a data file into rows of columns."""

from __future__ import annotations

import codecs
import csv
import difflib
import gzip
import io
import json
import shlex
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from trials.config import DataError
from trials.data.addresses import fetched, file_name

TEXT_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
KNOWN_SUFFIXES = f"{', '.join(TEXT_SUFFIXES)} (each also with .gz) or .parquet"

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # before UTF-16, whose mark is the first half of this one
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_SIGNATURES = (  # in lower case
    (b"%pdf-", "a PDF", "Extract its text into one of the known formats."),
    (b"pk\x03\x04", "a ZIP archive or an Office document", "Unpack it, or save it as CSV."),
    (b"\x1f\x8b", "gzip data", "Add .gz to its name."),
    (b"\x28\xb5\x2f\xfd", "Zstandard data", "Unpack it with unzstd."),
    (b"par1\x15", "Parquet", "Let its name end in .parquet."),
    (b"arrow1\0\0", "an Arrow file", "Save it as Parquet."),
    (b"<!doctype", "a web page", "Download the data itself, not the page that shows it."),
    (b"<html", "a web page", "Download the data itself, not the page that shows it."),
)
PARQUET_ROWS = 256
"""Unpacked at once."""
_ROW_BYTES = 200
"""Of a row of Python's own, however little it holds."""
_SEPARATORS = {",": "a comma", "\t": "a tab", ";": "a semicolon"}


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it is stored."""

    position: str
    """`line 17` of JSON Lines, otherwise `row 17`: from 1, header and blank lines apart."""
    columns: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one source that could be read, and what is wrong with the others."""

    title: str
    """The source in a message: `data/train.jsonl`, or `org/name:train`."""
    name: str
    """The same without folders."""
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, position: str, value: object) -> None:
        """Take `value` as a row, or as a problem if it is no object."""
        if isinstance(value, dict):
            self.rows.append(Row(position, value))
            return
        self.problems.append(
            f"{position} of {self.title} must be a JSON object such as "
            f'{{"prompt": "…", "completion": "…"}}, found {found(value)}. Mend or remove it.'
        )


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
        _check_size(path.stat().st_size, title)
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
    return _table(fetched(address, check_size=lambda n: _check_size(n, title)), title, name)


def _table(data: bytes, title: str, name: str) -> Table:
    if not data:
        raise DataError(f"{title} must hold rows, but it is empty (0 bytes).")
    if data.startswith(b"version https://git-lfs"):
        mend = "Run `git lfs pull` in its folder."
        raise DataError(f"{title} is a git-lfs pointer, not the data itself. {mend}")
    table = Table(title, name)
    if data_suffix(name) == ".parquet":
        _read_parquet(data, table)
    else:
        _read_text(data, table)
    if not table.rows and not table.problems:
        raise DataError(f"{title} must hold rows, but it has none.")
    return table


def data_suffix(name: str) -> str | None:
    """Return `.jsonl` for `train.jsonl` and `train.jsonl.gz`; None if no known suffix ends it."""
    lowered = name.lower()
    for suffix in TEXT_SUFFIXES:
        if lowered.endswith((suffix, f"{suffix}.gz")):
            return suffix
    return ".parquet" if lowered.endswith(".parquet") else None


def nearest(name: str, names: Iterable[str]) -> str:
    """Return `; did you mean …?` with the one of `names` most like `name`, else a full stop."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean `{_snippet(close[0])}`?" if close else "."


def quoted(names: Iterable[str]) -> str:
    """Return names for a message, at most 20 of them: `prompt`, `completion`."""
    listed = [f"`{_snippet(name)}`" for name in names]
    return ", ".join(listed[:20] + ["…"] * (len(listed) > 20))


def found(value: object) -> str:
    """Return in words what a stored value is."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return f"the number {_snippet(str(value))}"
    if isinstance(value, str):
        return f"the text '{_snippet(value)}'"
    if isinstance(value, list):
        return "a list"
    return "an object" if isinstance(value, dict) else f"a {type(value).__name__}"


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


def _check_size(n_bytes: int, title: str) -> None:
    """Refuse what would not fit: a file of a few kilobytes may unpack to more than any memory."""
    most = _most_bytes()
    if n_bytes > most:
        raise DataError(
            f"{title} must fit into a quarter of the free memory ({most / 2**30:.1f} GiB), since "
            f"its rows are held whole, but it unpacks to more. Split it, or free memory."
        )


def _most_bytes() -> int:
    return int(psutil.virtual_memory().available) // 4


def _read_parquet(data: bytes, table: Table) -> None:
    import pyarrow as pa  # here, not above: most files are not Parquet
    import pyarrow.parquet as pq

    try:
        stored = pq.ParquetFile(pa.BufferReader(data))
        _check_names(stored.schema_arrow.names, table.title)
        n_bytes = 0
        for batch in stored.iter_batches(PARQUET_ROWS):
            # A text that is stored once may stand in every row.
            columns = [c.dictionary_decode() if hasattr(c, "dictionary") else c for c in batch]
            n_bytes += sum(c.nbytes for c in columns) + _ROW_BYTES * batch.num_rows
            _check_size(n_bytes, table.title)
            first = len(table.rows) + 1
            rows = enumerate(_in_python(batch, table.title), first)
            table.rows.extend(Row(f"row {n}", row) for n, row in rows)
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{table.title} is not a whole Parquet file: {first_line(error)} "
            f"Fetch or write it again."
        ) from None


def _in_python(batch: Any, title: str) -> list[dict[str, object]]:
    import pyarrow as pa

    try:
        rows: list[dict[str, object]] = batch.to_pylist()
    # Such as a date beyond the year 9999, or a time zone that this machine does not know.
    except (pa.ArrowException, ValueError, OverflowError, LookupError) as error:
        raise DataError(
            f"{title} holds a value that Python cannot: {first_line(error)} "
            f"Leave its column out, or write it as text."
        ) from None
    return rows


def _read_text(data: bytes, table: Table) -> None:
    if table.name.lower().endswith(".gz"):
        data = _unpacked(data, table.title)
    text = _decoded(data, table.title)
    if not text.strip():
        raise DataError(f"{table.title} must hold rows, but all its lines are blank.")
    match data_suffix(table.name):
        case ".json":
            _read_json(text, table)
        case ".csv":
            _read_csv(text, table, separator=",")
        case ".tsv":
            _read_csv(text, table, separator="\t")
        case _:
            _read_json_lines(text, table)


def _unpacked(data: bytes, title: str) -> bytes:
    try:
        with gzip.open(io.BytesIO(data)) as packed:
            unpacked = packed.read(_most_bytes() + 1)
        _check_size(len(unpacked), title)
        return unpacked
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{title} is not whole gzip data: {first_line(error)} "
            f"Fetch it again, or take .gz off its name if it is not packed."
        ) from None


def _decoded(data: bytes, title: str) -> str:
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            mend = _iconv(encoding, title)
            raise DataError(f"{title} must be UTF-8, but it begins as {encoding} does. {mend}")
    for signature, what, mend in _SIGNATURES:
        if data[:64].lstrip().lower().startswith(signature):
            raise DataError(f"{title} must be what its suffix says, but it is {what}. {mend}")
    if b"\0" in data:
        at = data.index(b"\0")
        raise DataError(f"{title} must be text, but it is a binary file: byte {at} is NUL.")
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        where = f"{title} must be UTF-8, but byte {error.start}, on line {line}, is not"
        if error.reason == "unexpected end of data":
            raise DataError(f"{where}: the file was cut short. Fetch it again.") from None
        # 0x80-0x9f are letters and quotation marks in Windows's latin-1, and nothing in the other.
        windows = any(0x80 <= byte <= 0x9F for byte in data)
        encoding = "windows-1252" if windows else "latin1"
        mend = f"It may be {'Windows-1252' if windows else 'latin-1'}. {_iconv(encoding, title)}"
        raise DataError(f"{where} (0x{data[error.start]:02x}). {mend}") from None


def _iconv(encoding: str, title: str) -> str:
    unpacked = Path(title.removesuffix(".gz"))
    target = unpacked.with_stem(f"{unpacked.stem}.utf8")
    first = "Unpack it with gunzip; then" if title.endswith(".gz") else "Convert it"
    names = f"{shlex.quote(str(unpacked))} > {shlex.quote(str(target))}"
    return f"{first}: iconv -f {encoding} -t UTF-8 {names}"


def _read_json_lines(text: str, table: Table) -> None:
    # Not splitlines(): a JSON string may hold U+2028 and other characters at which that splits.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            table.add(f"line {number}", _parsed(line, table.title, number))
        except DataError as error:
            table.problems.append(f"{error} Mend or remove that line.")
    if not table.rows and _is_one_document(text):
        raise DataError(
            f"{table.title} must hold one JSON object per line, but it is a single JSON value. "
            f"Let its name end in .json."
        )


def _read_json(text: str, table: Table) -> None:
    try:
        value = _parsed(text, table.title, 1)
    except DataError as error:
        mend = "If each line is an object of its own, let its name end in .jsonl."
        raise DataError(f"{error} {mend if 'Extra data' in str(error) else 'Mend it.'}") from None
    rule = f"{table.title} must be a list of objects, or an object that holds exactly one list"
    if isinstance(value, dict):
        lists = [name for name, inside in value.items() if isinstance(inside, list)]
        if len(lists) != 1:
            held = f"lists under {quoted(lists)}" if lists else f"no list under {quoted(value)}"
            raise DataError(f"{rule}; found {held}. Leave one list of objects.")
        value = value[lists[0]]
    if not isinstance(value, list):
        raise DataError(f"{rule}; found {found(value)}.")
    for number, item in enumerate(value, 1):
        table.add(f"row {number}", item)


def _parsed(text: str, title: str, first_line: int) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = text.split("\n")[error.lineno - 1]
        raise DataError(
            f"line {first_line + error.lineno - 1} of {title} is not JSON: {error.msg} "
            f"at column {error.colno}, near '{_snippet(line, error.colno - 1)}'."
        ) from None
    except ValueError:  # Python's only other refusal: a whole number of more than 4300 digits
        raise DataError(f"line {first_line} of {title} holds too long a number.") from None
    except RecursionError:
        raise DataError(f"line {first_line} of {title} is nested too deeply.") from None


def _is_one_document(text: str) -> bool:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) or (
        isinstance(value, list) and value != [] and isinstance(value[0], dict)
    )


def _read_csv(text: str, table: Table, separator: str) -> None:
    csv.field_size_limit(2**31 - 1)  # the default, 128 KiB, is shorter than a long document
    # strict: otherwise a quotation mark that never closes swallows the rest of the file.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    lines = (fields for fields in reader if len(fields) > 1 or "".join(fields).strip())
    number = 0
    try:
        header = [name.strip() for name in next(lines, [""])]
        _check_header(header, table.title, separator)
        for number, fields in enumerate(lines, 1):
            if len(fields) == len(header):
                table.rows.append(Row(f"row {number}", dict(zip(header, fields, strict=True))))
                continue
            table.problems.append(
                f"row {number} of {table.title} (it ends on line {reader.line_num}) must have "
                f"{len(header)} fields, as the header has; found {len(fields)}. "
                f"Put a field that holds {_SEPARATORS[separator]} in quotation marks."
            )
    except csv.Error as error:
        table.problems.append(
            f"row {number + 1} of {table.title} is not CSV: {error} (line {reader.line_num}). "
            f"Close each quotation mark, and double those inside a field."
        )


def _check_header(header: list[str], title: str, separator: str) -> None:
    other = next((mark for mark in _SEPARATORS if mark in header[0]), None)
    if len(header) == 1 and other:
        mend = "Let its name end in .tsv." if other == "\t" else "Save it anew with the other."
        raise DataError(
            f"the columns of {title} must be separated by {_SEPARATORS[separator]}, "
            f"found {_SEPARATORS[other]}. {mend}"
        )
    _check_names(header, title)


def _check_names(names: list[str], title: str) -> None:
    twice = [name for name, n in Counter(names).items() if n > 1 and name]
    if twice:
        raise DataError(
            f"each column of {title} must have a name of its own; found twice: {quoted(twice)}. "
            f"Rename one."
        )


def _snippet(text: str, at: int = 0) -> str:
    start = max(0, at - 30)
    return "".join(c if c.isprintable() else " " for c in text[start : start + 60])


def first_line(error: Exception) -> str:
    """Return the beginning of what was raised, for a message."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300].rstrip(".") + "."
