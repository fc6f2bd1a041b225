"""What the final evaluation says of a winner, in words: the same wherever it is said."""

from functools import partial

from sweep.results.certainty import STANDARD_ERRORS, Judge
from sweep.results.final import Figures
from sweep.results.reading import StoredSweep
from sweep.study.ended import StoredTrial


def figures_in_words(
    sweep: StoredSweep, judge: Judge, winner: StoredTrial, *, is_settled: bool
) -> tuple[str, ...]:
    """Return sentences with the winner's figures, first those with the least part in the choice.

    None where the final evaluation has not measured it.

    Args:
        is_settled: Whether the winner is said to be better than the second.
    """
    final, parts = judge.final, []
    second = next((trial for trial in judge.ranked if trial.number != winner.number), None)
    beside = partial(_beside, judge, winner, second, is_settled=is_settled)
    trained = (sweep.task.get("base_model") or {}).get("quantization")
    base = ", on the base model in 16 bits" if final.all.quantization == "none" != trained else ""
    on_test = _figure(sweep, final.test, winner, f"On {{n}} test rows, which decided nothing{base}")
    if on_test:
        parts.append(on_test + beside(final.test, "test rows decide nothing") + ".")
    chose = ", which decided the winner" if on_test else ""
    if on_all := _figure(sweep, final.all, winner, f"On all {{n}} eval rows{chose}{base}"):
        parts.append(f"{on_all}{_of_sample(sweep, winner)}.")
    elif on_test and winner.value is not None:
        heading = sweep.objective.heading
        parts.append(f"On the eval rows, which decided the winner: {heading} {winner.value:.4f}.")
    in_16_bits = _figure(sweep, final.in_16_bits, winner, "On the base model in 16 bits")
    if in_16_bits and final.all.quantization != "none":
        parts.append(in_16_bits + beside(final.in_16_bits, "16 bits decide nothing") + ".")
    elif final.all.quantization != "none" and (why := final.left_out.get("16-bit")):
        parts.append(f"Not measured in 16 bits: {why}.")
    return tuple(parts)


def _figure(sweep: StoredSweep, found: Figures, winner: StoredTrial, where: str) -> str:
    """`On all 64 eval rows: eval loss 2.0000 ± 0.1000 by the choice of rows, the base model's
    3.0000`; empty where it was not measured."""
    figure, base = found.trials.get(winner.number), found.base
    if figure is None:
        return ""
    error = "" if figure.error is None else f" ± {STANDARD_ERRORS * figure.error:.4f}"
    error += error and " by the choice of rows"
    against = "" if base is None else f", the base model's {base.value:.4f}"
    heading = sweep.objective.heading
    return f"{where.format(n=figure.n_rows)}: {heading} {figure.value:.4f}{error}{against}"


def _beside(
    judge: Judge,
    winner: StoredTrial,
    second: StoredTrial | None,
    found: Figures,
    aside: str,
    *,
    is_settled: bool,
) -> str:
    """How it compares with the second and the base model on the same rows.

    Args:
        aside: Said where that is another verdict than the one above it, which it does not change.
    """
    said = []
    numbers = {f"trial {second.number}": second.number} if second is not None else {}
    for name, number in {**numbers, "the base model": None}.items():
        lead = judge.lead_on(found, winner.number, number)
        if lead is not None and lead.mean == 0:  # of a metric, which has few values
            said.append(f"equal to {name}")
        elif lead is not None and lead.is_clear:
            is_another = number is not None and not (is_settled and lead.mean > 0)
            words = f"probably {'better' if lead.mean > 0 else 'worse'} than {name} by {lead}"
            said.append(f"{words} ({aside})" if is_another else words)
        elif lead is not None:
            said.append(f"not to be told from {name} ({lead})")
    return f"; {' and '.join(said)}" if said else ""


def _of_sample(sweep: StoredSweep, winner: StoredTrial) -> str:
    if winner.value is None:
        return ""
    by = (sweep.task.get("base_model") or {}).get("backend")
    who = " (by Unsloth; the rest is transformers')" if by == "unsloth" else ""
    return f"; {winner.value:.4f} on the search's sample{who}"
