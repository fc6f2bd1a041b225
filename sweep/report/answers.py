"""What the models answer to held-out prompts, side by side, in report.html."""

from html import escape

from sweep.results.answers import answers_table
from sweep.results.reading import StoredSweep
from sweep.text.numbers import counted


def answers_section(sweep: StoredSweep) -> str:
    found = answers_table(sweep)
    if found is None:
        return ""
    _, *headings = found.columns
    return (
        f"<h2>Answers to {counted(len(found.rows), 'held-out prompt')}</h2>"
        "<p>See whether the winner answers better than the base model, and more like the data. "
        "Each model writes its likeliest token at every step; … ends what was cut.</p>"
        + "".join(_block(headings, row) for row in found.rows)
    )


def _block(headings: list[str], row: list[str]) -> str:
    """A prompt, and what follows it below."""
    prompt, *answers = row
    cells = "".join(
        f'<div><div class="dim">{escape(heading)}</div>'
        f'<div class="text">{escape(answer)}</div></div>'
        for heading, answer in zip(headings, answers, strict=True)
    )
    return f'<div class="text prompt">{escape(prompt)}</div><div class="answers">{cells}</div>'
