"""Addresses of what does not lie beside the space: object stores, and paths of other machines."""

import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from trials.config import DataError
from trials.data.table import first_line

STORES = ("s3", "gs")
"""Object stores that data is read from. pyarrow's wheels bring their clients along."""
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_address(text: str) -> bool:
    """Whether `text` is `scheme://…` and no path."""
    return _ADDRESS.match(text) is not None


def local_path(text: str) -> str:
    """Return the path of `file:///folder/name`; anything else as it is."""
    return unquote(text.removeprefix("file://")) if text.startswith("file:///") else text


def wrong_address(address: str, schemes: Sequence[str] = STORES) -> str | None:
    """Say why nothing can be read at an address, as far as that is known without asking.

    Args:
        schemes: Stores that it may be in.
    """
    scheme, _, rest = address.partition("://")
    if scheme == "file":
        return (
            None
            if rest.startswith("/")
            else ("file:// needs an absolute path: file:///folder/name.")
        )
    known = ", ".join([*(f"{store}://bucket/…" for store in schemes), "file:///folder/…"])
    if scheme not in schemes:
        return f"{scheme}:// is not read; an address here is {known}. Copy it there."
    bucket, _, key = rest.partition("/")
    return None if bucket and key else f"must name a bucket and a file in it, as in {known}."


def file_name(address: str) -> str:
    """Return the last part of an address, without its query."""
    return unquote(urlsplit(address).path).rpartition("/")[2]


def fetched(address: str, check_size: Callable[[int], object]) -> bytes:
    """Return what an object store holds at an address.

    Credentials and regions are found where the stores' own clients look: AWS_* variables,
    ~/.aws, the machine's role; Google's application default credentials.

    Args:
        check_size: Called with the number of bytes before they are read; may raise.

    Raises:
        DataError: It could not be had.
    """
    import pyarrow as pa  # here, not above: most data lies on the disk
    from pyarrow import fs

    title = address.partition("?")[0]
    try:
        store, path = fs.FileSystem.from_uri(address)
        about: Any = store.get_file_info(path)
        if about.type is not fs.FileType.File:
            raise DataError(f"{title}: no such file. Check its name and your right to read it.")
        check_size(about.size)
        with store.open_input_stream(path, compression=None) as stream:
            data: bytes = stream.read()
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{title} cannot be fetched: {first_line(error)} Check its name, the network, and "
            f"this machine's credentials for {title.partition(':')[0]}."
        ) from None
    return data
