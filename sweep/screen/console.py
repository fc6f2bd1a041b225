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
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=cleaned(segment.text))
