"""A campaign: where its sweeps lie, and how they end when nothing disturbs them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tests import tiny
from tests.faults import states
from tests.faults.campaign import ALONE, DRAWN_ALONE, SweepUnderTest, write_space
from tests.faults.mlflow_server import MlflowServer

LATEST_SECONDS = 25.0
"""So long after its first trial began, a command is cut off at the latest."""
ENDS_WITHIN_SECONDS = 600.0
STOPS_WITHIN_SECONDS = 60.0


@dataclass
class Course:
    """Where the sweeps of a campaign lie, and how they end when nothing disturbs them."""

    folder: Path
    base: Path
    n_trials: int
    epochs: str
    """As the YAML file has them."""
    reference: dict[int, states.Ended]
    start_up_seconds: float
    """From the command to its first trial."""
    rules: str = DRAWN_ALONE
    """Of the sampler and of pruning, as the YAML file has them; empty: the defaults."""
    workers: int = 2

    @property
    def latest_moment(self) -> float:
        """When a command is cut off at the latest, in seconds."""
        return self.start_up_seconds + LATEST_SECONDS

    def new_sweep(
        self,
        name: str,
        *,
        more: str = "",
        output: Path | None = None,
        server: MlflowServer | None = None,
        study: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> SweepUnderTest:
        """A sweep in a folder of its own that nobody has started."""
        space = write_space(
            self.folder / name,
            self.base,
            n_trials=self.n_trials,
            epochs=self.epochs,
            more=self.rules + more,
        )
        return SweepUnderTest(
            space,
            output=output,
            mlflow=server.address if server else None,
            mlflow_db=server.database if server else None,
            study=study,
            environment=environment,
            workers=self.workers,
        )

    def with_defaults(self) -> Course:
        """The same with one worker, all else by default: then a sweep has one right end."""
        return _undisturbed(self.folder / "one-worker", self.base, self.n_trials, self.epochs)


def lay_out(folder: Path, *, n_trials: int = 12, epochs: str = "[20, 30]") -> Course:
    """Make the base model and run the sweep that nothing disturbs, every trial to its own end.

    The sweeps to be disturbed have the usual pruning: of trials it pauses the curve is cut short.
    """
    base = tiny.make_base(folder / "base")
    course = _undisturbed(folder, base, n_trials, epochs, rules=ALONE, workers=2)
    return replace(course, rules=DRAWN_ALONE)


def _undisturbed(
    folder: Path, base: Path, n_trials: int, epochs: str, *, rules: str = "", workers: int = 1
) -> Course:
    space = write_space(folder / "reference", base, n_trials=n_trials, epochs=epochs, more=rules)
    sweep = SweepUnderTest(space, workers=workers)
    sweep.start()
    assert sweep.wait_until_begun(), sweep.words
    start_up_seconds = time.monotonic() - sweep.started_at
    code = sweep.wait(ENDS_WITHIN_SECONDS)
    left = sweep.gone()
    assert code == 0 and not left, (code, left, sweep.words)
    reference = states.results(states.study_of(sweep))
    assert sorted(reference) == list(range(n_trials))
    problems = [*states.unreadable(sweep), *states.wrong(sweep, reference)]
    assert not problems, problems
    return Course(folder, base, n_trials, epochs, reference, start_up_seconds, rules, workers)


def at_work(sweep: SweepUnderTest) -> str:
    numbers = sorted(sweep.at_work())
    return f"(trials {', '.join(map(str, numbers))})" if numbers else "(no trial runs)"


def has_just_ended(sweep: SweepUnderTest, code: int) -> bool:
    return code == 0 and "trials in " in sweep.words


def last_words(sweep: SweepUnderTest) -> str:
    return " / ".join(sweep.words.strip().splitlines()[-3:])[:500]
