"""How long a sweep may take, before it begins: from what a token took earlier trials here."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from sweep.driver import ten_steps
from sweep.driver.preparation import Check
from sweep.screen.progress import rungs_waited_at
from sweep.space.backend import choose_backend
from sweep.space.domains import Choices, Domain, Range
from sweep.space.space import Space
from sweep.study.final import TOP
from sweep.study.trial_config import model_config
from sweep.text.numbers import counted, duration, from_to, gpu_hours
from sweep.workers.devices import n_gpu_slots, n_visible_gpus, n_workers
from sweep.workers.paces import Pace, kind_of, note, noted


class Length:
    """What can be said of the length of a sweep on this machine.

    Args:
        workers: As on the command line.
    """

    def __init__(self, space: Space, *, on_gpus: bool, workers: int | None) -> None:
        self._space, self._on_gpus, self._workers = space, on_gpus, workers
        model = model_config(space, choose_backend(space, on_gpus=on_gpus))
        self._kind = kind_of(space, model, on_gpus=on_gpus, workers=workers)

    def see_place(self) -> None:
        """Refuse to measure where that cannot be done (`ten_steps.see_place`)."""
        ten_steps.see_place(is_known=self._kind is not None)

    def measure(self, found: Check, say: Callable[[str], None]) -> None:
        """Take ten steps, and note what a token took in place of what earlier trials have."""
        assert self._kind is not None
        pace = ten_steps.measured(self._space, found, self._workers, say)
        say(f"{1 / pace.training:,.0f} tokens/s")
        note(self._kind, [pace])

    def in_words(self, found: Check) -> str:
        """Say it, or how it could be known."""
        if self._kind is None:
            return "Length: not known before trials run, on a cluster or on unlike GPUs."
        paces = noted(self._kind)
        if not paces:
            return (
                "Length: not known, since no trial of this kind has run here. "
                "To tell, take ten steps: sweep check --measure."
            )
        n_slots = n_workers(self._space, self._workers)
        if self._on_gpus:
            n_slots = n_gpu_slots(self._space, asked=None, there=n_visible_gpus() or 1)
        cost = cost_of(self._space, found.report, paces)
        return in_words(self._space, cost, n_slots=n_slots, n_paces=len(paces))


@dataclass(frozen=True, slots=True)
class Cost:
    """What trials take, in seconds of one slot."""

    epochs: float
    """Of a trial, on average."""
    trial: float
    """A whole run of so many."""
    least_share: float
    """Of it, what a trial runs on average if no more go on than their rungs let through."""
    final: float
    """The final evaluation."""

    def seconds(self, n_trials: float) -> list[float]:
        """Of so many trials, at least and at most."""
        return [n_trials * self.trial * share + self.final for share in (self.least_share, 1.0)]

    def n_trials(self, seconds: float) -> list[float]:
        """For which there is room, at least and at most."""
        room = max(0.0, seconds - self.final) / self.trial
        return [room, room / self.least_share]


def cost_of(space: Space, report: Mapping[str, Any], paces: Sequence[Pace]) -> Cost:
    """Return what trials of a space take.

    Args:
        report: Of the prepared rows.
        paces: What is known of such trials; at least one.
    """
    counts, epochs = report["train"].values(), _mean_epochs(space)
    evaluation = fmean(pace.evaluation for pace in paces) * report["evaluation_tokens"]
    training = fmean(pace.training for pace in paces) * fmean(each["tokens"] for each in counts)
    n_rows = max(each["rows"] - each["dropped"] for each in counts)
    steps = epochs * math.ceil(n_rows / space.smallest["effective_batch_size"])
    n_eval_rows = report["eval"]["rows"] - report["eval"]["dropped"]
    all_rows = (TOP + 1) * evaluation * n_eval_rows / report["sample_rows"]
    return Cost(
        epochs=epochs,
        trial=epochs * training + min(space.settings.evaluate.times, steps) * evaluation,
        least_share=_least_share(space),
        final=all_rows if space.settings.final_evaluation else 0.0,
    )


def _least_share(space: Space) -> float:
    """The best 1 in `factor` go on from each rung; so few trials that none is compared all do."""
    settings = space.settings.pruning.outclassed
    if not settings or n_trials_of(space) <= settings.min_peers:
        return 1.0
    times = space.settings.evaluate.times
    rungs = pairwise([0, *rungs_waited_at(space).indices, times])
    parts = [(end - begin) / settings.factor**i for i, (begin, end) in enumerate(rungs)]
    return math.fsum(parts) / times


def _mean_epochs(space: Space) -> float:
    """Of the trials that are tried first, and of what is drawn for the others."""
    drawn, n = _mean_of(space.domains["epochs"]), n_trials_of(space)
    if math.isinf(n):
        return drawn
    first = [float(start.values.get("epochs", drawn)) for start in space.starts][: int(n)]
    return (sum(first) + (n - len(first)) * drawn) / n


def n_trials_of(space: Space) -> float:
    """As many as the budget and the search have; infinite: hours alone end the sweep."""
    return min(space.settings.budget.trials or math.inf, space.n_points)


def _mean_of(domain: Domain) -> float:
    """The mean of what is drawn while nothing is known yet."""
    if isinstance(domain, Choices):
        return fmean(map(float, domain.values))
    assert isinstance(domain, Range)
    if domain.log and domain.high > domain.low:
        return (domain.high - domain.low) / math.log(domain.high / domain.low)
    return (domain.low + domain.high) / 2


def in_words(space: Space, cost: Cost, *, n_slots: int, n_paces: int) -> str:
    """Say from when to when it takes; of a budget of hours alone, how many trials it has room for.

    Args:
        n_slots: Trials at once.
        n_paces: Trials that the cost is known from.
    """
    budget, per_trial = space.settings.budget, space.settings.gpus_per_trial
    limits = [(budget.hours or math.inf) * 3600]
    limits.append((budget.gpu_hours or math.inf) * 3600 / per_trial / n_slots)
    most, at_once = min(limits), "" if n_slots == 1 else f" with {n_slots} trials at once"
    n_trials = n_trials_of(space)
    if math.isinf(n_trials):
        room = from_to([f"{n:,.0f}" for n in cost.n_trials(most * n_slots)])
        hours = [most * n_slots / 3600 * per_trial]
        words = f"room for about {room} trials in {duration(most)}{at_once}"
    else:
        spent = cost.seconds(n_trials)
        walls = [max(cost.trial, seconds / n_slots) for seconds in spent]
        hours = [min(seconds, most * n_slots) / 3600 * per_trial for seconds in spent]
        words = f"about {from_to([duration(min(wall, most)) for wall in walls])}{at_once}"
    known = f"by what a token took {counted(n_paces, 'trial')} of this kind here"
    priced = gpu_hours(hours, budget.price_per_gpu_hour)
    return f"Length: {words}, {priced}: {_assumed(space, cost)}; {known}."


def _assumed(space: Space, cost: Cost) -> str:
    """What stands behind both ends."""
    settings = space.settings.pruning.outclassed
    each = counted(float(f"{cost.epochs:.3g}"), "epoch")
    words = f"if all trials run to their end, of {each} on average"
    if settings and cost.least_share < 1.0:
        words = f"if 1 in {settings.factor} goes on from where they are compared, and {words}"
    if space.settings.budget.stop_when_flat is not None:
        words += "; stop_when_flat may end it sooner"
    return words
