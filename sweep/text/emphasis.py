"""What a reader should not overlook."""

from rich.text import Text


def first_in_bold(words: str) -> Text:
    """Return lines of text, the first of them in bold."""
    first, _, rest = words.partition("\n")
    return Text.assemble((first, "bold"), f"\n{rest}" if rest else "")
