"""When the final evaluation is made, and what it may take."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

from sweep.driver.job import Job
from sweep.folder import layout
from sweep.results.certainty import best_rows
from sweep.study.final import MOST_OF_THE_HOURS, TOP, FinalEvaluation, plan
from sweep.study.sweep import Sweep
from sweep.text.numbers import counted, duration
from trials.config import TrialConfig
from trials.trial_folder import ADAPTER


@dataclass
class Finish:
    """Decides what is measured at a sweep's end.

    Args:
        n_slots: How many measurements run at once.
        say: Told what is measured, and what is left out.
    """

    job: Job
    sweep: Sweep
    say: Callable[[str], None]
    n_slots: Callable[[], int] = lambda: 1

    def evaluation(self) -> FinalEvaluation | None:
        """Return what is to be measured; None: nothing, or it has been."""
        configs = self._configs()
        found = self._within_hours(configs)
        cost = self._seconds_of_one()
        if configs and found is None:
            self.say(
                f"Final evaluation left out: about {duration(cost * (len(configs) + 1))} on all "
                f"eval rows, but it may take {duration(self._allowed_seconds())} "
                f"({MOST_OF_THE_HOURS:.0%} of budget.hours)."
            )
        if found is None or not found.n_to_do:
            return None
        n = counted(len(found.measurements) - 1, "adapter")
        seconds = cost * found.n_to_do
        about = f", about {duration(seconds)}" if seconds >= 1 else ""
        self.say(
            f"Final evaluation: the best {n} and the base model on all {self._n_rows} eval "
            f"rows{about}."
        )
        return found

    def _within_hours(self, configs: Mapping[int, TrialConfig]) -> FinalEvaluation | None:
        """As many of the trials as the hours allow, two at least, and the base model."""
        cost = self._seconds_of_one()
        n = self._allowed_seconds() / cost - 1 if cost else math.inf
        if not configs or n < min(2, len(configs)):
            return None
        kept = dict(list(configs.items())[: int(min(n, len(configs)))])
        return FinalEvaluation(plan(self.job.output_dir, kept))

    def reserve(self) -> float:
        """Seconds of the sweep's hours that are kept for it."""
        if not self._is_wanted:
            return 0.0
        return min(self._allowed_seconds(), self._seconds_of_one() * (TOP + 1))

    @property
    def is_due(self) -> bool:
        """Whether something is to be measured that has not been."""
        found = self._within_hours(self._configs())
        return found is not None and found.n_to_do > 0

    @property
    def _n_rows(self) -> int:
        counts = self.job.found.report["eval"]
        return int(counts["rows"] - counts["dropped"])

    @property
    def _n_sample(self) -> int:
        return int(self.job.found.report["sample_rows"])

    @property
    def _is_wanted(self) -> bool:
        settings = self.job.space.settings
        return settings.final_evaluation and self.job.space.objective.is_eval_loss

    def _configs(self) -> dict[int, TrialConfig]:
        """The best trials that have their adapters, unless all is known of them already."""
        if not self._is_wanted:
            return {}
        best = [t for t in self.sweep.ranked(TOP) if self._has_adapter(t.number)]
        if self._n_sample >= self._n_rows and all(best_rows(trial) for trial in best):
            return {}
        return {trial.number: self.sweep.config_of(trial) for trial in best}

    def _has_adapter(self, number: int) -> bool:
        return (layout.trial_dir(self.job.output_dir, number) / ADAPTER).is_dir()

    def _allowed_seconds(self) -> float:
        hours = self.job.space.settings.budget.hours
        return math.inf if hours is None else MOST_OF_THE_HOURS * hours * 3600

    def _seconds_of_one(self) -> float:
        """That measuring one adapter takes a slot, by what the trials' evaluations have taken."""
        took = [
            trial.result["evaluation_seconds"] / len(trial.points)
            for trial in self.sweep.ranked(2 * TOP)  # asked at every event
            if trial.points and trial.result.get("evaluation_seconds")
        ]
        return median(took) * self._n_rows / self._n_sample / self.n_slots() if took else 0.0
