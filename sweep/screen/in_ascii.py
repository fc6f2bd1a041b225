"""Signs of the screen where only ASCII can be written: the C locale of cron, a container."""

import codecs
import io
import unicodedata
from typing import TextIO

NAME = "ascii_forms"
_FORMS = {
    **dict(zip("▁▂▃▄▅▆▇█", "_.,-~=+#", strict=True)),  # a curve, from low to high
    **dict.fromkeys("━─═╌┄╴╶╸╺", "-"),
    **dict.fromkeys("┃│║▏▎▍▌▋▊▉╎┆", "|"),
    **{"α": "alpha", "σ": "sigma", "√": "sqrt", "∞": "inf", "×": "x", "÷": "/", "·": "*"},
    **{"−": "-", "±": "+-", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "…": "..."},
    **{"→": "->", "←": "<-", "↑": "^", "↓": "v", "✓": "+", "✗": "x", "•": "*"},
    **{"⟦": "[[", "⟧": "]]", "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "ß": "ss"},
}


def register() -> None:
    """Make the forms known to `codecs`, as an error handler."""
    codecs.register_error(NAME, _in_ascii)
    codecs.register(_ascii_by_another_name)


def write_forms(stream: io.TextIOWrapper) -> None:
    """Have a stream write such forms of what its encoding lacks."""
    register()
    is_ascii = codecs.lookup(stream.encoding).name == "ascii"
    stream.reconfigure(encoding=NAME if is_ascii else None, errors=NAME)


def as_shown(text: str, stream: TextIO) -> str:
    """Return `text` as a stream would show it."""
    register()
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, NAME).decode(encoding)


def _ascii_by_another_name(name: str) -> codecs.CodecInfo | None:
    """To ASCII by its own name click writes UTF-8: it takes that for a mistake."""
    found = codecs.lookup("ascii")
    parts = found.encode, found.decode, found.streamreader, found.streamwriter
    steps = found.incrementalencoder, found.incrementaldecoder
    return codecs.CodecInfo(*parts, *steps, name=name) if name == NAME else None


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError), error
    return "".join(map(_form, error.object[error.start : error.end])), error.end


def _form(sign: str) -> str:
    if (form := _FORMS.get(sign)) is not None:
        return form
    if "\u2500" <= sign <= "\u257f":  # corners and crossings of boxes
        return "+"
    if "\u2800" <= sign <= "\u28ff":  # braille, of which spinners are made
        return "*"
    letters = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
    return letters or "?"
