"""How good is the time left on the screen? Sweeps replayed on the recorded landscape.

    python -m tests.benchmarks.time_left --seeds 40

At each evaluation the screen's guess is compared with what came: the share of moments, after a
quarter of the sweep, in which it was within 25 %; and how often a guess was below what the longest
running trial still took.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import optuna

from sweep.driver.loop import run
from sweep.events import Place, Tracker
from sweep.screen.progress import Progress, rungs_waited_at, usual_epochs
from sweep.storage.mirror import InMemory
from sweep.study.budget import Budget
from sweep.study.sweep import Sweep
from sweep.study.trial_config import resolver
from tests.benchmarks.replay import Landscape, ReplayRunner, read_landscapes
from tests.benchmarks.simulator import Case, _space
from trials.config import EvalPoint, TrialConfig, TrialResult

N_TRIALS = 24
WITHIN = 0.25
FROM = 0.25
"""Of the sweep: before it nothing is promised."""


@dataclass
class Guesses(Tracker):
    """Writes down what the screen would say at each evaluation."""

    progress: Progress
    said: list[tuple[float, float | None]] = field(default_factory=list)
    """When, and how many seconds were left by the guess."""

    def trial_started(self, config: TrialConfig, place: Place) -> None:
        self.progress.started(config, place)

    def trial_reported(self, number: int, point: EvalPoint) -> None:
        self.progress.reported(number, point)
        self.said.append((self.progress.clock(), self.progress.seconds_of_trials_left()))

    def trial_ended(self, number: int, result: TrialResult) -> None:
        self.progress.finished(number, result)


def replayed(landscape: Landscape, n_gpus: int, seed: int, folder: Path) -> Guesses:
    """Run one sweep and return the guesses; the last entry is its end."""
    space = _space(Case("budget", "tpe", "{}", n_gpus, seed), landscape, folder)
    study = optuna.create_study(storage=InMemory(), pruner=optuna.pruners.NopPruner())
    resolve = resolver(
        space, backend="transformers", on_gpus=True, output_dir=folder, data_dir=folder
    )
    sweep, runner = Sweep(space, study, resolve), ReplayRunner(landscape, n_gpus)
    budget = Budget(N_TRIALS, None)
    progress = Progress(
        budget,
        clock=lambda: runner.now,
        queued=sweep.queued(),
        rungs=rungs_waited_at(space),
        usual_epochs=usual_epochs(space),
    )
    progress.usage.count(n_gpus, 0)
    guesses = Guesses(progress)
    sweep.trackers = [guesses]
    run(sweep, runner, budget)
    guesses.said.append((runner.now, 0.0))
    return guesses


def judged(guesses: Guesses) -> tuple[list[float], int]:
    """Return guess ÷ truth of each moment after a quarter; and moments without a guess."""
    end = guesses.said[-1][0]
    moments = [(end - now, said) for now, said in guesses.said[:-1] if now >= FROM * end]
    known = [(left, said) for left, said in moments if said is not None and left > 0]
    return [said / left for left, said in known], len(moments) - len(known)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2, 4])
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.disable(logging.WARNING)
    landscapes = read_landscapes()
    print("| GPUs | moments | within 25 % | median of guess ÷ truth | no guess |")
    for n_gpus in asked.gpus:
        ratios: list[float] = []
        n_unknown = 0
        for seed in range(asked.seeds):
            with tempfile.TemporaryDirectory() as folder:
                found = replayed(landscapes["cosine", seed % 2], n_gpus, seed, Path(folder))
            here, unknown = judged(found)
            ratios += here
            n_unknown += unknown
        near = sum(abs(ratio - 1) <= WITHIN for ratio in ratios) / len(ratios)
        print(f"| {n_gpus} | {len(ratios)} | {near:.0%} | {median(ratios):.2f} | {n_unknown} |")


if __name__ == "__main__":
    main()
