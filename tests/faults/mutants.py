"""What both kinds of mutants share: bytes that change, and files that are none."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

Content = bytes | str
"""The bytes of a file; or, as text, what stands in its place (see `put`)."""


def put(path: Path, content: Content) -> Path:
    """Write a file, or what is named: folder, fifo, loop, dangling, forbidden, or a link's end."""
    if path.is_symlink() or path.exists():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
        return path
    match content:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path.name)
        case "dangling":
            path.symlink_to("nowhere")
        case "forbidden":
            path.write_bytes(b"name: x\n")
            path.chmod(0)
        case _:
            path.symlink_to(content)
    return path


def _place(content: bytes, chance: random.Random) -> int:
    return chance.randrange(len(content) + 1)


def _inserted(piece: bytes) -> Callable[[bytes, random.Random], bytes]:
    def insert(content: bytes, chance: random.Random) -> bytes:
        at = _place(content, chance)
        return content[:at] + piece + content[at:]

    return insert


def _flipped(content: bytes, chance: random.Random) -> bytes:
    if not content:
        return content
    at = chance.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << chance.randrange(8))]) + content[at + 1 :]


def _deleted(content: bytes, chance: random.Random) -> bytes:
    at = _place(content, chance)
    return content[:at] + content[at + chance.choice((1, 2, 10, 100)) :]


def _doubled(content: bytes, chance: random.Random) -> bytes:
    at, n = _place(content, chance), chance.choice((1, 10, 100))
    return content[: at + n] + content[at : at + n] + content[at + n :]


BYTE_MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flipped,
    _flipped,
    _deleted,
    _doubled,
    lambda content, chance: content[: _place(content, chance)],
    lambda content, chance: content[_place(content, chance) :],
    lambda content, chance: content + content,
    lambda content, chance: b"\xef\xbb\xbf" + content,
    lambda content, chance: content.decode("latin-1").encode("utf-16"),
    lambda content, chance: content.decode("latin-1").encode("utf-32"),
    lambda content, chance: content.replace(b"\n", b"\r\n"),
    lambda content, chance: content.replace(b"\n", b"\r"),
    lambda content, chance: content.replace(b" ", b"\xc2\xa0"),
    *map(
        _inserted,
        (
            *(b"\0", b"\0" * 100, b"\xff\xfe", b"\xe9", b"\xed\xa0\x80", b"\xc2\x85", b"\x1b[31m"),
            *(b"\t", b"\n", b'"', b"'", b"{", b"]", b": ", b",", b"#", b"&a ", b"*a ", b"!!x "),
            *(b"\xe2\x80\xa8", b"\xf0\x9f\x99\x82", b"%", b"- ", b"---\n", b"\\", b"<<: "),
        ),
    ),
)
