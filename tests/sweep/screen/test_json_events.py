"""Events for programs: their form, and what becomes of numbers and readers that are gone."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
from collections.abc import Callable
from typing import Any

from rich.console import Console

from sweep.events import Place
from sweep.screen.json_events import Events, EventScreen
from sweep.screen.plain import PlainScreen
from sweep.screen.progress import Progress
from sweep.study.budget import Budget
from trials.config import EvalPoint, TrialConfig, TrialResult

POINT = EvalPoint(
    index=1,
    step=5,
    epoch=0.25,
    eval_loss=math.nan,
    train_loss=math.inf,
    learning_rate=1e-4,
    grad_norm=-math.inf,
    tokens_per_second=1.0,
    gpu_memory_gib=None,
    seconds=1.0,
)


def read(text: str) -> list[dict[str, Any]]:
    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return [json.loads(line, parse_constant=no_constant) for line in text.splitlines()]


def test_a_trial_is_told_from_its_start_to_its_end(config: Callable[..., TrialConfig]) -> None:
    out, err = io.StringIO(), io.StringIO()
    plain = PlainScreen(Console(file=err), Progress(Budget(2, None)))
    screen = EventScreen(Events(out), plain)
    with screen:
        screen.say("The cluster has 2 places.")
        screen.trial_started(config(7), Place("box", "GPU 0"))
        screen.trial_reported(7, POINT)
        screen.trial_ended(7, TrialResult(outcome="diverged", reason="Eval loss is nan."))
    said, started, reported, ended = read(out.getvalue())
    assert (said["event"], said["message"]) == ("message", "The cluster has 2 places.")
    assert (started["event"], started["trial"], started["device"]) == ("trial_started", 7, "GPU 0")
    assert started["config"]["rank"] == 8
    assert (reported["event"], reported["index"], reported["step"]) == ("trial_reported", 1, 5)
    assert {reported[key] for key in ("eval_loss", "train_loss", "grad_norm")} == {None}
    assert (ended["outcome"], ended["reason"]) == ("diverged", "Eval loss is nan.")
    assert ended["eval_loss"] is None
    assert "trial 007" in err.getvalue()
    assert all(event["time"] > 1.7e9 for event in (said, started, reported, ended))


def test_a_reader_that_goes_away_ends_nothing() -> None:
    there, here = os.pipe()
    os.close(there)
    err = io.StringIO()
    plain = PlainScreen(Console(file=err), Progress(Budget(2, None)))
    with contextlib.suppress(BrokenPipeError), os.fdopen(here, "w") as stream:
        screen = EventScreen(Events(stream), plain)
        screen.say("Its reader is gone.")
        screen.say("The sweep goes on.")
    assert "The sweep goes on." in err.getvalue()
