"""When the final evaluation is made, and what it may take."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

from sweep.driver.cards import room_gib
from sweep.driver.job import Job
from sweep.folder import layout
from sweep.results.certainty import best_rows
from sweep.results.final import read_final
from sweep.study.final import (
    MOST_OF_THE_HOURS,
    TOP,
    FinalEvaluation,
    Measurement,
    Part,
    leave_out,
    plan,
)
from sweep.study.sweep import Sweep
from sweep.text.numbers import counted, duration
from sweep.workers.devices import n_workers
from trials.config import Quantization, TrialConfig
from trials.data.tokens import EVALUATION_COST
from trials.trial_folder import ADAPTER

STEP_SECONDS = 0.05
"""Of generation, at least: however small the batch, each token is a pass of many kernels. A guess
for an 8B model on a GPU; not measured."""

LEADERS = 2
"""The winner and the second: what is measured once the winner is chosen."""
PLAIN: Quantization = "none"

Planned = tuple[FinalEvaluation | None, str]
"""What is measured, and how that is said; None: why it is left out."""


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

    def evaluations(self) -> Iterator[FinalEvaluation]:
        """Yield what is to be measured; what comes later follows from what came before."""
        for found, words in self._parts():
            if found is None or found.n_to_do:
                self.say(f"Final evaluation: {words}.")
            if found is not None and found.n_to_do:
                yield found

    @property
    def is_due(self) -> bool:
        """Whether something is to be measured that has not been."""
        return any(found is not None and found.n_to_do for found, _ in self._parts())

    def reserve(self) -> float:
        """Seconds of the sweep's hours that are kept for it, and for answers."""
        return min(self._allowed, self._wanted() + self.seconds_of_answers())

    def _wanted(self) -> float:
        if not self._is_wanted:
            return 0.0
        return self._of_one() * (TOP + 1) + self._of_test() + self._of_16_bits()

    def seconds_of_answers(self) -> float:
        """That three models take to answer the held-out prompts, by what evaluations have taken."""
        asked = self._report.get("answers")
        if not asked:
            return 0.0
        n_slots, n_tokens = self.n_slots(), self._report["eval"]["tokens"]
        took = self._of_one() * n_slots * asked["cost"] / (EVALUATION_COST * n_tokens)
        least = asked["max_new_tokens"] * STEP_SECONDS
        return float(math.ceil(3 / n_slots) * max(took, least))

    def seconds_left(self) -> float:
        """That are left for the answers once all is measured."""
        return self._allowed - self._wanted()

    def _parts(self) -> Iterator[Planned]:
        configs = self._undecided() if self._is_wanted else {}
        if configs:
            yield self._on_all_rows(configs)
        leaders = self._leaders() if self._is_wanted else {}
        if leaders and "test" in self._report:
            yield self._on_test_rows(leaders)
        if leaders and self._deciding != PLAIN:
            yield self._in_16_bits(leaders)

    def _on_all_rows(self, configs: Mapping[int, TrialConfig]) -> Planned:
        """As many of the trials as the hours allow, two at least, and the base model."""
        cost = self._of_one()
        n = (self._allowed - self._of_test()) / cost - 1 if cost else math.inf
        if n < min(2, len(configs)):
            why = self._too_long(cost * (len(configs) + 1))
            return None, f"left out on all eval rows: {why}"
        configs = dict(list(configs.items())[: int(min(n, len(configs)))])
        found = FinalEvaluation(self._plan("all", configs, self._deciding))
        what = f"the best {counted(len(configs), 'adapter')} and the base model"
        bits = " in 16 bits" if self._deciding != self.job.space.quantization else ""
        where = f"on all {self._n_rows} eval rows{bits}"
        return found, f"{what} {where}{_about(cost * found.n_to_do)}"

    def _on_test_rows(self, leaders: Mapping[int, TrialConfig]) -> Planned:
        cost = self._of_test()
        if cost > self._allowed:
            return None, f"left out on the test rows: {self._too_long(cost)}"
        found = FinalEvaluation(self._plan("test", leaders, self._deciding))
        what = f"{_named(leaders)}, and the base model, on {_kept(self._report['test'])} test rows"
        return found, f"{what}{_about(cost)}"

    def _in_16_bits(self, leaders: Mapping[int, TrialConfig]) -> Planned:
        cost, why = self._of_16_bits(), self._why_not_in_16_bits
        if why is None and self._of_one() * (TOP + 1) + self._of_test() + cost > self._allowed:
            why = self._too_long(cost)
        if why is not None:
            leave_out(self.job.output_dir, "16-bit", why)
            return None, f"not measured in 16 bits: {why}"
        found = FinalEvaluation(self._plan("16-bit", leaders, PLAIN))
        what = f"{_named(leaders)} on all {self._n_rows} eval rows in 16 bits"
        return found, f"{what}{_about(cost)}"

    def _plan(
        self, part: Part, configs: Mapping[int, TrialConfig], quantization: Quantization
    ) -> list[Measurement]:
        split = "test" if part == "test" else "eval"
        return plan(
            self.job.output_dir,
            part,
            configs,
            rows=self._report[f"{split}_fingerprint"],
            quantization=quantization,
        )

    def _too_long(self, seconds: float) -> str:
        may_take = f"{duration(self._allowed)} ({MOST_OF_THE_HOURS:.0%} of budget.hours)"
        return f"about {duration(seconds)}, but it may take {may_take}"

    @cached_property
    def _why_not_in_16_bits(self) -> str | None:
        """None: the base model fits, as far as is known."""
        memory = self._report["memory"]
        if (plain := memory.get("plain_gib")) is None:
            return "the checkpoint is quantised already"
        needed = plain + memory["adapter_gib"]
        settings, options = self.job.space.settings, self.job.options
        room = room_gib(
            settings.gpus_per_trial,
            n_workers=None if self.job.on_gpus else n_workers(self.job.space, options.workers),
        )
        words = f"needs {max(needed, 0.1):,.{0 if needed >= 10 else 1}f} GiB"
        if room is None:
            return f"{words}; how much the machines have is not known here"
        return words if needed > room else None

    @property
    def _report(self) -> Any:
        return self.job.found.report

    @property
    def _n_rows(self) -> int:
        return _kept(self._report["eval"])

    @property
    def _is_wanted(self) -> bool:
        return self.job.space.settings.final is not None

    @property
    def _deciding(self) -> Quantization:
        """Of the base model on which the winner is chosen."""
        final = self.job.space.settings.final
        is_plain = final is not None and final.base == "16-bit"
        return PLAIN if is_plain else self.job.space.quantization

    def _undecided(self) -> dict[int, TrialConfig]:
        """The best trials that have their adapters, unless all is known of them already."""
        best = [trial for trial in self.sweep.ranked(TOP) if self.has_adapter(trial.number)]
        is_known = self._report["sample_rows"] >= self._n_rows and all(map(best_rows, best))
        if is_known and self._deciding == self.job.space.quantization:
            return {}
        return {trial.number: self.sweep.config_of(trial) for trial in best}

    def _leaders(self) -> dict[int, TrialConfig]:
        objective = self.job.space.objective
        ranked = read_final(self.job.output_dir).decided(self.sweep.ranked(TOP), objective)
        best = [trial for trial in ranked if self.has_adapter(trial.number)]
        return {trial.number: self.sweep.config_of(trial) for trial in best[:LEADERS]}

    def has_adapter(self, number: int) -> bool:
        """Whether a trial's adapter is kept."""
        return (layout.trial_dir(self.job.output_dir, number) / ADAPTER).is_dir()

    @property
    def _allowed(self) -> float:
        """Seconds that it may take."""
        hours = self.job.space.settings.budget.hours
        return math.inf if hours is None else MOST_OF_THE_HOURS * hours * 3600

    def _of_one(self) -> float:
        """Seconds that one adapter on all eval rows takes a slot, by what the trials' evaluations
        have taken."""
        took = [
            trial.result["evaluation_seconds"] / len(trial.points)
            for trial in self.sweep.ranked(2 * TOP)  # asked at every event
            if trial.points and trial.result.get("evaluation_seconds")
        ]
        measured = [self._report["sample_rows"]]
        if generation := self._report.get("generation"):  # of fewer rows, which cost the most
            measured.append(generation["rows"])
        scale = self._n_rows / min(measured) / self.n_slots()
        return median(took) * scale if took else 0.0

    def _of_test(self) -> float:
        if "test" not in self._report:
            return 0.0
        return self._of_one() * (LEADERS + 1) * _kept(self._report["test"]) / self._n_rows

    def _of_16_bits(self) -> float:
        is_left_out = self._deciding == PLAIN or self._why_not_in_16_bits is not None
        return 0.0 if is_left_out else self._of_one() * LEADERS


def _kept(counts: Mapping[str, int]) -> int:
    return counts["rows"] - counts["dropped"]


def _named(leaders: Mapping[int, TrialConfig]) -> str:
    return "winner and second" if len(leaders) > 1 else "the winner"


def _about(seconds: float) -> str:
    return f", about {duration(seconds)}" if seconds >= 1 else ""
