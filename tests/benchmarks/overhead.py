"""What a sweep costs beside its trials: `python -m tests.benchmarks.overhead`.

Runs a sweep of tiny real trials on two CPU workers and compares its wall time, from the start of
the first trial to the end of the last, with what the trials themselves needed for training and
evaluation, divided by two. Start-up is measured apart: its parts, and the gap between trials.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

os.environ["OMP_NUM_THREADS"] = "1"

import optuna

from tests import tiny

N_TRIALS = 16
SPACE = """\
base_model: {base}
data: {{train: train.jsonl, eval: eval.jsonl, max_length: 64}}
search: {{rank: [4, 8, 16, 32], learning_rate: {{min: 1e-4, max: 1e-3, log: true}}, epochs: 8}}
pruning: {{overfit: false, outclassed: false}}
budget: {{trials: {n_trials}}}
"""


def main() -> None:
    """Run the sweep and print the figures."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base = tiny.make_base(folder / "base")
        tiny.write_rows(folder / "train.jsonl", 400, seed=2)
        tiny.write_rows(folder / "eval.jsonl", 256, seed=3)
        (folder / "tiny.yaml").write_text(SPACE.format(base=base, n_trials=N_TRIALS))
        began = time.time()
        subprocess.run(
            [
                *(sys.executable, "-m", "sweep", "run", str(folder / "tiny.yaml")),
                *("--workers", "2", "--output", str(folder / "out")),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        whole = time.time() - began
        out = folder / "out" / "tiny"
        study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{out}/study.db")
        timings = json.loads((out / "timings.json").read_text())
    trials = study.trials
    own = sum(_seconds(trial.user_attrs["result"]) for trial in trials)
    first = min(timings["started_at"])
    wall = max(timings["ended_at"]) - first
    print(f"{N_TRIALS} trials on 2 workers, {own / N_TRIALS:.1f} s each on average")
    print(f"wall time {wall:.1f} s, own time / 2 = {own / 2:.1f} s: ratio {wall / (own / 2):.3f}")
    print(f"the command as a whole {whole:.1f} s; before the first trial {first - began:.1f} s:")
    print(f"  importing torch and all above it, each worker: {median(timings['imports']):.1f} s")
    print(f"  loading the base model, each worker: {median(timings['loads']):.2f} s")
    gaps = sorted(timings["gaps"])
    print(f"gap between two trials of a worker: median {median(gaps) * 1000:.0f} ms, "
          f"longest {gaps[-1] * 1000:.0f} ms")  # fmt: skip


def _seconds(result: dict[str, float]) -> float:
    return result["training_seconds"] + result["evaluation_seconds"]


if __name__ == "__main__":
    main()
