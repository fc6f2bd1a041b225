"""What a sweep has found, and how sure that is: one sentence, the same wherever it is said.

Where `sweep confirm` has run, its verdict; else what rows and seeds allow (`certainty`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any, Literal

from sweep.results.certainty import Judge, Lead
from sweep.results.confirmed import Confirmed
from sweep.results.confirmed_words import FEW_SEEDS
from sweep.results.final_words import figures_in_words
from sweep.results.paired_test import CONFIDENCE
from sweep.results.reading import StoredSweep
from sweep.study.ended import StoredTrial
from sweep.text.numbers import counted, listed
from sweep.text.trials import an
from sweep.tracking.location import command

Certainty = Literal["confirmed", "probable", "tied", "unknown"]
N_TIED = 5
"""Of trials that are named one by one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conclusion:
    """Which trial has won, and what can be said of its lead."""

    winner: StoredTrial
    certainty: Certainty
    over_others: str
    """Plain sentences."""
    over_base: str
    """A sentence where the winner may be no better than the base model; else empty."""
    figures: tuple[str, ...]
    """Sentences with those of the final evaluation; none where there was none."""
    superlative: str
    """`lowest eval loss`, or what it has the best of."""
    how: str = ""
    """What the ± of a lead means; empty where there is none."""
    next_step: str = ""
    """What makes it surer, with the command; it ends a text, so that the command can be copied."""
    tied: tuple[int, ...] = ()
    """Trials that cannot be told apart, the winner first; none where one leads."""

    @property
    def words(self) -> str:
        """A line for each: how sure it is, each figure, what ± means, what to do next."""
        said = " ".join(filter(None, [self.over_others, self.over_base]))
        how = self.how and f"(±: {self.how}.)"
        return "\n".join(filter(None, [said, *self.figures, how, self.next_step]))


def in_html(found: Conclusion) -> str:
    """What the conclusion says, with what should not be overlooked in bold; not what to do next."""
    said = [found.over_others, found.over_base]
    lines = [f"<strong>{escape(words)}</strong>" for words in said if words]
    lines += [escape(words) for words in found.figures]
    if found.how:
        lines.append(f'<span class="dim">±: {escape(found.how)}.</span>')
    return "<br>".join(lines)


def conclude(sweep: StoredSweep) -> Conclusion | None:
    """Return what a sweep has found; None: no trial has a value that counts."""
    if not sweep.ranked:
        return None
    judge = Judge(sweep)
    found = [each for each in judge.confirmed if each.mean is not None]
    conclusion = _by_seeds(sweep, judge, found) if len(found) > 1 else None
    return conclusion or _by_rows(sweep, judge)


def _by_seeds(sweep: StoredSweep, judge: Judge, found: Sequence[Confirmed]) -> Conclusion | None:
    best, other = found[0], found[1]
    apart = other.above_best
    if apart is None:
        return None
    numbers = f"{best.trial} and {other.trial}"
    seeds, unit = counted(apart.n, "seed"), "nats" if sweep.objective.is_eval_loss else ""
    next_step = ""
    if apart.half_width is None or apart.n < FEW_SEEDS:
        next_step = f"Add seeds: {command('confirm', sweep.folder)} --seeds {FEW_SEEDS}"
        differ = f"differ by {abs(apart.mean):.4f} {unit}".rstrip()
        words = f"Trained again with {seeds}, trials {numbers} {differ}: too few seeds to"
        by_rows = _by_rows(sweep, judge)
        if by_rows.certainty == "probable" and by_rows.winner.number == best.trial:
            words = f"{by_rows.over_others} {words} confirm it."
            return replace(by_rows, over_others=words, next_step=next_step)
        words += " tell them apart."
        certainty: Certainty = "tied"
    else:
        by = f"{abs(apart.mean):.4f} ± {apart.half_width:.4f} {unit}".rstrip()
        by = f"{by}, {CONFIDENCE:.0%} interval"
        if apart.is_beyond_noise:
            certainty = "confirmed"
            words = (
                f"Confirmed with {seeds}: trial {best.trial} is better than {other.trial} ({by})."
            )
        else:
            certainty = "tied"
            words = (
                f"Trained again with {seeds}, trials {numbers} cannot be told apart ({by}): take "
                f"the cheaper."
            )
    by_number = {trial.number: trial for trial in sweep.ranked}
    is_settled = apart.n >= FEW_SEEDS and best.trial in by_number
    own = judge.ranked[0]
    winner = by_number[best.trial] if is_settled else own
    extreme, heading = sweep.objective.extreme, sweep.objective.heading
    if best.trial != own.number:
        words += f" In the sweep itself trial {own.number} had the {extreme} {heading}."
    return _won(
        sweep,
        judge,
        winner,
        certainty=certainty,
        over_others=words,
        superlative=f"{extreme} {f'mean {heading} of {seeds}' if is_settled else heading}",
        next_step=next_step,
        tied=(best.trial, other.trial) if certainty == "tied" else (),
    )


def _by_rows(sweep: StoredSweep, judge: Judge) -> Conclusion:
    winner = judge.ranked[0]
    certainty: Certainty = "unknown"
    tied: tuple[int, ...] = ()
    apart: Lead | None = None
    confirm, next_step = command("confirm", sweep.folder), ""
    if len(judge.ranked) == 1:
        words = f"No other trial has {an(sweep.objective)} that counts, to compare it with."
    elif (apart := judge.lead(winner, second := judge.ranked[1])) is None:
        words, next_step = _unknown(sweep, winner, second), f"To be sure: {confirm}"
    elif apart.certainty == "probable":
        certainty = "probable"
        words = (
            f"Trial {winner.number} is probably better than trial {second.number}, the second, "
            f"by {apart.on_rows}."
        )
        next_step = f"To be sure: {confirm}"
    else:
        certainty, like = "tied", judge.tied()
        tied = tuple(trial.number for trial in like)
        shown = [str(number) for number in tied[:N_TIED]]
        more = f" and {len(tied) - N_TIED} more" if len(tied) > N_TIED else ""
        names = f"{', '.join(shown)}{more}" if more else listed(shown)
        leads = f"{winner.number} leads {second.number} by {apart.on_rows}"
        if apart.mean == 0:  # of a metric, which has few values
            leads = f"{winner.number} and {second.number} have the same {sweep.objective.heading}"
        words = f"Trials {names} cannot be told apart: {leads}."
        next_step = f"Take the cheapest, or settle it: {confirm}"
    return _won(
        sweep,
        judge,
        winner,
        certainty=certainty,
        over_others=words,
        superlative=f"{sweep.objective.extreme} {sweep.objective.heading}",
        how="" if apart is None else apart.how,
        next_step=next_step,
        tied=tied,
    )


def _won(sweep: StoredSweep, judge: Judge, winner: StoredTrial, **said: Any) -> Conclusion:
    """Add to what is said of the others how the winner does by itself, and beside the base."""
    return Conclusion(
        winner=winner,
        over_base=_over_base(sweep, judge, winner),
        figures=figures_in_words(
            sweep, judge, winner, is_settled=said["certainty"] in ("confirmed", "probable")
        ),
        **said,
    )


def _unknown(sweep: StoredSweep, winner: StoredTrial, second: StoredTrial) -> str:
    assert winner.value is not None and second.value is not None
    leads = f"Trial {winner.number} leads {second.number} by {abs(second.value - winner.value):.4f}"
    if winner.value == second.value:
        leads = (
            f"Trials {winner.number} and {second.number} have the same {sweep.objective.heading}"
        )
    why = (
        "the losses of single eval rows were not kept"
        if sweep.objective.is_eval_loss
        else "the scores of single rows are not kept"
    )
    return f"{leads}. Whether that is chance is not known: {why}."


def _over_base(sweep: StoredSweep, judge: Judge, winner: StoredTrial) -> str:
    judged, key = sweep.judged(winner), sweep.objective.key
    if judged.base_value is None or judged.value is None:
        return ""
    where = f" {judged.where or judged.of_sample}".rstrip()
    if key(judged.value) >= key(judged.base_value):
        return f"The winner is not better than the base model{where}."
    apart = judge.lead_over_base(winner)
    if apart is None or apart.certainty == "probable":
        return ""
    return f"The winner may be no better than the base model: it leads by {apart}{where}."
