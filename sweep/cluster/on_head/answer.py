"""How a command on the head gives its answer, among the lines that it prints."""

import json
from typing import Any

ANSWER = "sweep-answer: "
"""Begins the line in a small job's output that holds its answer, as JSON."""


def give_answer(value: Any) -> None:
    print(ANSWER + json.dumps(value), flush=True)
