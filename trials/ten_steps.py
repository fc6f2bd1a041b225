"""Train ten steps in a real worker, for their pace: `python -m trials.ten_steps REQUEST ANSWER`.

The first five warm it up: memory is laid out, kernels are chosen. The others are measured.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from trials.config import ConfigError, EvalPoint, ModelConfig, Objective, TrialConfig
from trials.messages import Broken, Ended, Reported
from trials.parent import end_with_parent
from trials.worker import TrialThread


def points_of(config: TrialConfig, gpu_share: float) -> list[EvalPoint]:
    """Run a trial to its end and return its evaluations.

    Raises:
        ConfigError: It has failed.
    """
    worker = TrialThread(config.model, config.gpus_per_trial, gpu_share)
    worker.start(config.number, config)
    points: list[EvalPoint] = []
    while True:
        event = worker.events.get()
        if isinstance(event, Broken):
            raise ConfigError(f"The base model cannot be loaded: {event.cause}")
        if isinstance(event, Reported):
            points.append(event.point)
            worker.answer(None)
        if isinstance(event, Ended):
            if event.result.outcome != "completed":
                raise ConfigError(f"The steps failed: {event.result.reason}")
            return points


def pace(first: EvalPoint, last: EvalPoint) -> dict[str, float]:
    """Return the seconds of a token and of an evaluation, between two evaluations."""
    if not (last.tokens and first.tokens and last.tokens_per_second):
        raise ConfigError("The steps failed: they learnt no token.")
    training = (last.tokens - first.tokens) / last.tokens_per_second
    return {
        "token": 1 / last.tokens_per_second,
        "evaluation": last.seconds - first.seconds - training,
    }


def main(request_path: str, answer_path: str) -> None:
    """Answer a request: {"report": seconds} or {"problems": text}."""
    request = json.loads(Path(request_path).read_text())
    os.environ.update(request["environment"])  # before torch is imported, which reads it once
    given: dict[str, Any] = request["config"]
    given |= {"model": ModelConfig(**given["model"]), "objective": Objective(**given["objective"])}
    answer: dict[str, Any]
    try:
        answer = {"report": pace(*points_of(TrialConfig(**given), request["gpu_share"]))}
    except ConfigError as error:
        answer = {"problems": str(error)}
    Path(answer_path).write_text(json.dumps(answer))


if __name__ == "__main__":
    end_with_parent()
    main(*sys.argv[1:])
