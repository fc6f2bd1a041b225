"""How good is the time left on the screen? Sweeps replayed on the recorded landscape.

    python -m tests.benchmarks.time_left --seeds 40

At each evaluation after a quarter of the sweep, what the screen says is compared with what came:
how often a range held it, how wide it was, and how often it was within 25 % of the one figure where
one is said. Beside them, the middle of the range as if it were always said alone, and what chance
leaves to such a figure: for each number of trials that have begun, the one that, with hindsight,
would have been within 25 % most often in the same sweeps.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median

import optuna

from sweep.driver.loop import run
from sweep.events import Place, Tracker
from sweep.screen.progress import Progress, expected_of
from sweep.screen.time_left import Left
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
    said: list[tuple[float, Left | None, int]] = field(default_factory=list)
    """When, what was left by the guess, and how many trials had begun."""

    def trial_started(self, config: TrialConfig, place: Place) -> None:
        self.progress.started(config, place)

    def trial_reported(self, number: int, point: EvalPoint) -> None:
        self.progress.reported(number, point)
        progress = self.progress
        n_begun = progress.n_ended + progress.n_paused + len(progress.running)
        self.said.append((progress.clock(), progress.trials_left(), n_begun))

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
        budget, clock=lambda: runner.now, queued=sweep.queued(), expected=expected_of(space)
    )
    progress.usage.count(n_gpus, 0)
    guesses = Guesses(progress)
    sweep.trackers = [guesses]
    run(sweep, runner, budget)
    guesses.said.append((runner.now, None, N_TRIALS))
    return guesses


@dataclass(frozen=True, slots=True)
class Moment:
    """What was said, and what came."""

    done: float
    """Share of the sweep."""
    came: float
    said: Left
    n_begun: int

    @property
    def is_near(self) -> bool:
        return is_near(self.said.expected, self.came)

    @property
    def is_held(self) -> bool:
        """Whether what the screen said was true."""
        if self.said.is_narrow:
            return self.is_near
        return self.said.low <= self.came <= self.said.high


def is_near(said: float, left: float) -> bool:
    return abs(said / left - 1) <= WITHIN


def judged(guesses: Guesses) -> tuple[list[Moment], int]:
    """Return the moments after a quarter; and how many there were without a guess."""
    end = guesses.said[-1][0]
    late = [each for each in guesses.said[:-1] if end > each[0] >= FROM * end]
    known = [Moment(now / end, end - now, said, n) for now, said, n in late if said is not None]
    return known, len(late) - len(known)


def in_hindsight(moments: list[Moment]) -> float:
    """Return the share of moments that one figure for each number of begun trials is near to."""
    came: dict[int, list[float]] = {}
    for moment in moments:
        came.setdefault(moment.n_begun, []).append(moment.came)
    best = (
        max(sum(is_near(one, left) for left in found) for one in found) for found in came.values()
    )
    return sum(best) / len(moments)


def row(moments: list[Moment], n_unknown: int) -> list[str]:
    """Return the figures of the table."""
    narrow = [moment.is_near for moment in moments if moment.said.is_narrow]
    wide = [moment for moment in moments if not moment.said.is_narrow]
    quarters = (
        fmean(each.is_held for each in moments if i <= 4 * each.done < i + 1) for i in (1, 2, 3)
    )
    return [
        f"{len(moments)}",
        f"{fmean(moment.is_held for moment in moments):.0%}",
        ", ".join(f"{share:.0%}" for share in quarters),
        f"{len(narrow) / len(moments):.0%}: {fmean(narrow):.0%}",
        f"{fmean(each.is_held for each in wide):.0%}",
        f"{median(each.said.high / each.said.low for each in wide):.1f}",
        f"{fmean(moment.is_near for moment in moments):.0%}",
        f"{in_hindsight(moments):.0%}",
        f"{n_unknown}",
    ]


HEADINGS = (
    "GPUs", "moments", "true", "by quarter, from the 2nd", "one figure: true", "range: true",
    "its end ÷ begin", "middle within 25 %", "with hindsight", "none",
)  # fmt: skip


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2, 4])
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.disable(logging.WARNING)
    landscapes = read_landscapes()
    print(f"| {' | '.join(HEADINGS)} |")
    for n_gpus in asked.gpus:
        moments: list[Moment] = []
        n_unknown = 0
        for seed in range(asked.seeds):
            with tempfile.TemporaryDirectory() as folder:
                found = replayed(landscapes["cosine", seed % 2], n_gpus, seed, Path(folder))
            here, unknown = judged(found)
            moments += here
            n_unknown += unknown
        print(f"| {' | '.join([str(n_gpus), *row(moments, n_unknown)])} |", flush=True)


if __name__ == "__main__":
    main()
