"""Text of data, models, servers and libraries, before it is shown or stored."""

import re
from typing import Any

_STEERS = re.compile(
    r"[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]|\r(?!\n)"
)
"""What moves a terminal's cursor, sets its title, or turns the direction of its text."""
_TOKEN = r"\bhf_[A-Za-z0-9]{20,}"
"""Of the hub."""
_PASSWORD = r"://[^/\s'\"@]*:[^\s'\"@]+@|[?&](?:ssl)?password="


def cleaned(text: str) -> str:
    """Return `text` as it may reach a terminal; what would steer it is shown as �."""
    return _STEERS.sub("\ufffd", text)


def all_cleaned(value: Any) -> Any:
    """Clean every text in what JSON has brought."""
    match value:
        case str():
            return cleaned(value)
        case list():
            return [all_cleaned(one) for one in value]
        case dict():
            return {cleaned(key): all_cleaned(one) for key, one in value.items()}
    return value


def has_secret(text: str) -> bool:
    """Whether `text` holds an address with a password, or a token of the hub."""
    return re.search(f"{_TOKEN}|{_PASSWORD}", text) is not None


def harmless(text: str) -> str:
    """Return `text` of an error, which may hold both secrets and a row."""
    return cleaned(without_secrets(text))


def without_secrets(text: str) -> str:
    """Return `text` without passwords and queries of addresses, and without tokens of the hub."""
    text = re.sub(_TOKEN, "hf_…", text)
    return re.sub(r"\?[\w.%~-]+=[^\s'\")]*", "", re.sub(r"://[^\s'\"]*@", "://", text))


def in_a_line(error: Exception) -> str:
    """Return the first line of what was raised, without secrets."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    # urllib3's own words, out of the three messages around them
    if cause := re.search(r"Caused by \w+\(['\"](?:\w+\(.*?\): )?(.+?)['\"]\)", text):
        text = re.sub(r"', \w+\((?:\d+, )?'", " ", cause[1])
    text = harmless(text)[:300]
    return text if text.endswith(".") else f"{text}."
