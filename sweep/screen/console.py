"""A terminal that is not steered by the text it shows."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from trials.foreign_text import cleaned


class CleanConsole(Console):
    """A rich console that cleans all text, but for what rich itself writes to the terminal."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        clean = (
            segment if segment.control else segment._replace(text=cleaned(segment.text))
            for segment in super().render(renderable, options)
        )
        yield from clean if self.is_terminal else _without_trailing_spaces(clean)


def _without_trailing_spaces(segments: Iterable[Segment]) -> Iterable[Segment]:
    """Rich fills the lines of tables: in a file or a pipe that is noise."""
    for line, has_ended in Segment.split_lines_terminator(segments):
        if has_ended:
            while line and not line[-1].text.strip(" "):
                line.pop()
            if line:
                line[-1] = line[-1]._replace(text=line[-1].text.rstrip(" "))
            line.append(Segment.line())
        yield from line
