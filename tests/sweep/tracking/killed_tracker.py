"""A sweep of fake trials whose process is killed again and again: `test_tracking` looks at MLflow.

Called with a folder and a number of kills. Processes are forked, since importing MLflow takes
seconds; nothing but imports has happened before the fork.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from sweep.events import Place
from sweep.tracking.mlflow_tracker import MlflowTracker, send_rest
from tests.sweep.tracking.test_mlflow_tracker import config, point, write_files
from trials.config import Outcome, TrialResult

OUTCOMES: list[Outcome] = ["completed", "outclassed", "overfit", "completed"]
LOSSES = [2.5, 1.5, 1.25, 1.75]


def run(folder: Path) -> None:
    """Run the trials whose end trackers have not heard of, as `Sweep` notes it."""
    heard_of = folder / "heard.json"
    heard = json.loads(heard_of.read_text()) if heard_of.exists() else []
    tracker = MlflowTracker(
        uri=f"sqlite:///{folder}/mlflow.db",
        name=folder.name,
        artifacts_dir=folder / "mlartifacts",
        output_dir=folder,
    )
    tracker.open_sweep({"trials": 4}, {"dataset": "f00d"}, folder / "space.yaml")
    for number in [number for number in range(len(OUTCOMES)) if number not in heard]:
        trial = config(folder, number)
        tracker.trial_started(trial, Place("box", f"GPU {number % 2}"))
        for index, loss in enumerate(LOSSES):
            time.sleep(0.01)
            tracker.trial_reported(number, replace(point(index, loss + number), step=5 * index))
        if not (Path(trial.output_dir) / "adapter").exists():
            write_files(folder, number)
        result = TrialResult(outcome=OUTCOMES[number], reason="Why.", training_seconds=2.0)
        tracker.trial_ended(number, result)
        if number == 2:
            tracker.drop_adapter(number, Path(trial.output_dir) / "adapter")
        heard.append(number)
        heard_of.with_suffix(".tmp").write_text(json.dumps(heard))
        heard_of.with_suffix(".tmp").replace(heard_of)
    tracker.close_sweep("FINISHED", {"trial": 0, "eval_loss": 1.25}, "Done.")
    assert tracker.unsent == 0, tracker.first_error


def main(folder: Path, n_kills: int) -> None:
    """Kill the sweep `n_kills` times, then let it end; twice, send the rest between two."""
    chance = random.Random(n_kills)
    for attempt in range(n_kills):
        child = os.fork()
        if child == 0:
            run(folder)
            os._exit(0)
        time.sleep(chance.uniform(0.05, 0.8))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if attempt % 4 == 1 and (folder / "mlflow.json").exists():
            child = os.fork()
            if child == 0:
                os._exit(send_rest(folder, None, print))
            assert os.waitpid(child, 0)[1] == 0
    if n_kills != 1:
        run(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
