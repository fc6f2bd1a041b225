"""Rows of a Parquet file."""

from typing import Any

from trials.config import DataError
from trials.data.table import Row, Table, check_names, check_size, first_line

PARQUET_ROWS = 256
"""Unpacked at once."""
_ROW_BYTES = 200
"""Of a row of Python's own, however little it holds."""


def read_parquet(data: bytes, table: Table) -> None:
    import pyarrow as pa  # here, not above: most files are not Parquet
    import pyarrow.parquet as pq

    table.is_typed = True
    try:
        stored = pq.ParquetFile(pa.BufferReader(data))
        check_names(stored.schema_arrow.names, table.title)
        n_bytes = 0
        for batch in stored.iter_batches(PARQUET_ROWS):
            # A text that is stored once may stand in every row.
            columns = [c.dictionary_decode() if hasattr(c, "dictionary") else c for c in batch]
            n_bytes += sum(c.nbytes for c in columns) + _ROW_BYTES * batch.num_rows
            check_size(n_bytes, table.title)
            first = len(table.rows) + 1
            rows = enumerate(_in_python(batch, table.title), first)
            table.rows.extend(Row(f"row {n}", row) for n, row in rows)
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{table.title} is not a complete Parquet file: {first_line(error)} Fetch or write it "
            f"again."
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
