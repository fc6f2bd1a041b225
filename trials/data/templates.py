"""Texts built from columns: `data.template`, `data.prompt`, `data.completion`."""

import string
from collections.abc import Mapping, Sequence

from trials.config import DataError
from trials.data.bad_rows import BadRow
from trials.data.table import nearest, quoted, text_of

Pieces = list[tuple[str, str | None]]
"""Literal text, each with the column behind it."""


def pieces_of(key: str, template: str, present: Sequence[str], title: str) -> Pieces:
    """Read a template without str.format, which would follow attributes and indices.

    Args:
        key: Of the space, such as `data.template`.
        present: The columns that it may name.

    Raises:
        DataError: It does more than name columns.
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise DataError(
            f"{key} cannot be read: {error}. Write {{{{ and }}}} for a brace itself."
        ) from None
    for _, name, spec, conversion in parsed:
        if name is not None and (name not in present or spec or conversion):
            raise DataError(
                f"{key} may hold only {{column}} fields with columns of {title} "
                f"({quoted(present)}), found {_field(name, spec, conversion)}"
                f"{nearest(name, present)} Write {{{{ and }}}} for a brace itself."
            )
    pieces = [(literal, name) for literal, name, _, _ in parsed]
    # The same prompt before every completion is a use; the same text in every row is none.
    if key != "data.prompt" and not names_in(pieces):
        raise DataError(f"{key} must hold a field such as {{text}}, found none.")
    return pieces


def _field(name: str, spec: str | None, conversion: str | None) -> str:
    return f"{{{name}{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}}}"


def names_in(pieces: Pieces) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for _, name in pieces if name is not None))


def filled(key: str, pieces: Pieces, values: Mapping[str, object]) -> str:
    """Return the text of one row.

    Raises:
        BadRow: A field is no text; or all are empty, and that says nothing (but in a prompt).
    """
    names = names_in(pieces)
    fields = {name: text_of(values[name], f"`{name}`", may_be_empty=True) for name in names}
    if key != "data.prompt" and not any(value.strip() for value in fields.values()):
        raise BadRow(f"one field of {key} must not be empty", f"{quoted(fields)} so")
    return "".join(literal + ("" if name is None else fields[name]) for literal, name in pieces)
