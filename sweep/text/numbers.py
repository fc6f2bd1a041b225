"""Numbers as a person reads them."""

from collections.abc import Sequence


def counted(number: float, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{number:g} {noun}" if number == 1 else f"{number:g} {noun}s"


def duration(seconds: float) -> str:
    """`7 s`, `3:05`, `2 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def roughly(seconds: float) -> str:
    """`7 s`, `16 min`, `2 h 07 min`, `3 days`: `16:01 ago` would be a time of day."""
    if seconds < 3600:
        return duration(seconds) if seconds < 60 else f"{round(seconds / 60)} min"
    return duration(seconds) if seconds < 2 * 86400 else f"{round(seconds / 86400)} days"


def gpu_hours(hours: Sequence[float], price: float | None = None) -> str:
    """`0.50 GPU hours`; `0.50 to 1.20 GPU hours (1.00 to 2.40 at 2 an hour)`.

    Args:
        hours: One figure, or at least and at most.
        price: Of an hour, in whatever the user pays with; None: not known.
    """
    words = f"{from_to([f'{each:,.2f}' for each in hours])} GPU hours"
    if price is None:
        return words
    return f"{words} ({from_to([f'{each * price:,.2f}' for each in hours])} at {price:g} an hour)"


def from_to(words: Sequence[str]) -> str:
    """`2`, `2 to 5`."""
    return " to ".join(dict.fromkeys(words))


def megabytes(n_bytes: float) -> str:
    """`1 MB`, `812 MB`, `1,400 MB`: in millions of bytes."""
    return f"{max(1, round(n_bytes / 1e6)):,} MB"


def digits(value: float) -> str:
    """Six of them, `0.3` and not `0.30000000000000004`; whole numbers as they are."""
    return f"{value:.0f}" if value.is_integer() else f"{value:.6g}"


def listed(names: Sequence[str]) -> str:
    """`1`, `1 and 2`, `1, 2 and 3`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def ordinal(n: int) -> str:
    """`1st`, `2nd`, `13th`."""
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"
