"""Passwords in addresses, taken out before a text is shown or stored."""

import re


def without_secrets(text: str) -> str:
    """Return `text` without passwords and queries of addresses, and without tokens of the hub."""
    text = re.sub(r"\bhf_[A-Za-z0-9]{20,}", "hf_…", text)
    return re.sub(r"\?[\w.%~-]+=[^\s'\")]*", "", re.sub(r"://[^\s'\"]*@", "://", text))


def in_a_line(error: Exception) -> str:
    """Return the first line of what was raised, without secrets."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    # urllib3's own words, out of the three messages around them
    if cause := re.search(r"Caused by \w+\(['\"](?:\w+\(.*?\): )?(.+?)['\"]\)", text):
        text = re.sub(r"', \w+\((?:\d+, )?'", " ", cause[1])
    text = without_secrets(text)[:300]
    return text if text.endswith(".") else f"{text}."
