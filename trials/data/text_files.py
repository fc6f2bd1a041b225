"""Read a data file into rows of columns."""

import codecs
import csv
import gzip
import io
import json
import shlex
import zlib
from pathlib import Path

from trials.config import DataError
from trials.data import table as tables
from trials.data.bad_rows import BadRow
from trials.data.table import Row, Table, data_suffix, first_line, found, quoted, snippet

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
_SEPARATORS = {",": "a comma", "\t": "a tab", ";": "a semicolon"}


def read_text(data: bytes, table: Table) -> None:
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
            unpacked = packed.read(tables.most_bytes() + 1)
        tables.check_size(len(unpacked), title)
        return unpacked
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{title} is not complete gzip data: {first_line(error)} Fetch it again, or take .gz "
            f"off its name if it is not packed."
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
            table.add(f"line {number}", _parsed(line))
        except BadRow as bad:
            table.bad.add(f"line {number}", bad)
    if not table.rows and _is_one_document(text):
        raise DataError(
            f"{table.title} must hold one JSON object per line, but it is a single JSON value. "
            f"Let its name end in .json."
        )


def _read_json(text: str, table: Table) -> None:
    try:
        value = _parsed(text)
    except BadRow as bad:
        mend = "If each line is an object of its own, let its name end in .jsonl."
        extra = "Extra data" in str(bad)
        raise DataError(f"{table.title}: {bad}. {mend if extra else 'Fix it.'}") from None
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


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = text.split("\n")[error.lineno - 1]
        on_line = f"line {error.lineno}, " if "\n" in text else ""
        where = f"at {on_line}column {error.colno}, near '{snippet(line, error.colno - 1)}'"
        raise BadRow("must be JSON", f"a fault {where} ({error.msg})") from None
    except ValueError:  # Python's only other refusal: a whole number of more than 4300 digits
        raise BadRow("must not hold a number of more than 4300 digits") from None
    except RecursionError:
        raise BadRow("must not be nested so deeply") from None


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
            rule = (
                f"must have {len(header)} fields, as the header has (put a field that holds "
                f"{_SEPARATORS[separator]} in quotation marks)"
            )
            found_here = f"{len(fields)} in the row that ends on line {reader.line_num}"
            table.bad.add(f"row {number}", BadRow(rule, found_here))
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
    tables.check_names(header, title)
