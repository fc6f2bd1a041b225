"""Whether the winner and the second answer held-out prompts at a sweep's end."""

from collections.abc import Iterator
from dataclasses import dataclass

from sweep.driver.final import Finish
from sweep.results.answers import who_answers
from sweep.results.reading import read_sweep
from sweep.study.answers import TITLE, answering, forget_answers
from sweep.study.final import FinalEvaluation
from sweep.text.numbers import duration
from trials.config import UserError


@dataclass(frozen=True, slots=True)
class Asking:
    """Decides who is asked.

    Args:
        finish: The final evaluation, whose share of the hours it has a part in.
    """

    finish: Finish

    def evaluations(self) -> Iterator[FinalEvaluation]:
        """Yield what is to be measured, then who is to be asked; nothing is done again."""
        yield from self.finish.evaluations()
        found, seconds = self._asked(), self.finish.seconds_of_answers()
        if found is None or not found.n_to_do:
            return
        if seconds > (left := self.finish.seconds_left()):
            self.finish.say(
                f"{TITLE} left out: about {duration(seconds)}, but {duration(left)} are left of "
                f"what the end may take."
            )
            return
        self.finish.say(f"{TITLE}: the best trials and the base model write them.")
        yield found

    @property
    def is_due(self) -> bool:
        """Whether somebody is to be asked who has not been."""
        found, finish = self._asked(), self.finish
        has_time = finish.seconds_of_answers() <= finish.seconds_left()
        return has_time and found is not None and found.n_to_do > 0

    def forget_unwanted(self) -> bool:
        """Remove answers of earlier runs where none are wanted; return whether there were any."""
        job = self.finish.job
        return not job.space.settings.answers and forget_answers(job.output_dir)

    def _asked(self) -> FinalEvaluation | None:
        job, sweep = self.finish.job, self.finish.sweep
        if not job.found.report.get("answers"):
            return None
        try:
            trials = who_answers(read_sweep(job.output_dir, job.storage))
            there = [trial for trial in trials if self.finish.has_adapter(trial.number)]
            configs = {trial.number: sweep.config_of(trial) for trial in there}
            return answering(job.output_dir, configs) if configs else None
        except UserError as error:  # of a broken file: the sweep must end in order all the same
            self.finish.say(f"{TITLE} left out: {error}")
            return None
