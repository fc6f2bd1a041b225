"""Read a data set of the hub into rows of columns."""

import os

from trials.config import DataError
from trials.data.table import KNOWN_SUFFIXES, Row, Table, first_line


def read_hub(source: str) -> Table:
    """Return the rows of the hub's data set `org/name:split`; without a split, of `train`.

    Raises:
        DataError: The data set could not be had.
    """
    name, _, split = source.partition(":")
    split = split or "train"
    title = f"{name}:{split}"
    import datasets  # here, not above: it takes a second
    import httpx
    import pyarrow as pa
    from datasets.exceptions import DatasetsError

    failures = (OSError, ValueError, LookupError, RuntimeError, DatasetsError, httpx.HTTPError)
    try:
        # As Arrow, so that columns of images or sounds are not decoded.
        columns = datasets.load_dataset(name, split=split).with_format("arrow")[:].to_pylist()
    except (*failures, pa.ArrowException) as error:
        reason = first_line(error)
        raise DataError(f"{title} cannot be read from the hub: {reason} {_hub_mend()}") from None
    if not columns:
        raise DataError(f"{title} must hold rows, but it has none.")
    rows = [Row(f"row {n}", row) for n, row in enumerate(columns, 1)]
    return Table(title, title, rows, is_typed=True)


def _hub_mend() -> str:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return "HF_HUB_OFFLINE is set, so only what was downloaded before can be read: unset it."
    return (
        "Check its name (org/name:split), the network and `hf auth login`; "
        f"if it is a local file, its name must end in {KNOWN_SUFFIXES}."
    )
