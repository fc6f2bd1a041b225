"""The table in a notebook: one output of the cell that is replaced once a second."""

import io
import threading
from collections import deque
from typing import Any, Self

from rich.console import Group, RenderableType
from rich.text import Text

from sweep.events import Place
from sweep.screen.console import CleanConsole
from sweep.screen.plain import ended_in_a_line
from sweep.screen.progress import Progress
from sweep.screen.table import draw
from trials.config import EvalPoint, TrialConfig, TrialResult

SECONDS = 1.0
WIDTH, HEIGHT = 140, 30
N_LINES = 12
"""Of what was said last."""
HTML = (
    '<pre style="white-space:pre;overflow-x:auto;line-height:1.25;font-size:12px;'
    "font-family:Menlo,'DejaVu Sans Mono',Consolas,monospace\">{code}</pre>"
)


class NotebookScreen:
    """The live table as HTML; what is said stands above it. Rich's own would need ipywidgets."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._title = title
        self._lines: deque[Text] = deque(maxlen=N_LINES)
        self._display: Any = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._draw_again, name="table", daemon=True)

    def __enter__(self) -> Self:
        from IPython.display import display

        self._display = display(self._html(), display_id=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._display.update(self._html())

    def say(self, words: str) -> None:
        self._lines.append(Text(words))

    def trial_started(self, config: TrialConfig, place: Place) -> None:
        self._progress.started(config, place)

    def trial_reported(self, number: int, point: EvalPoint) -> None:
        self._progress.reported(number, point)

    def trial_ended(self, number: int, result: TrialResult) -> None:
        config = self._progress.finished(number, result)
        self._lines.append(ended_in_a_line(number, config, result))

    def _draw_again(self) -> None:
        while not self._is_over.wait(SECONDS):
            self._display.update(self._html())

    def _html(self) -> Any:
        import IPython.display

        table = draw(self._progress, self._title, width=WIDTH, height=HEIGHT)
        return IPython.display.HTML(as_html(Group(*list(self._lines), Text(), table)))


def as_html(shown: RenderableType) -> str:
    """What a terminal would show, with its colours."""
    console = CleanConsole(
        file=io.StringIO(),
        record=True,
        width=WIDTH,
        force_terminal=True,
        force_jupyter=False,
        color_system="truecolor",
        highlight=False,
        markup=False,
        emoji=False,
    )
    console.print(shown)
    return console.export_html(inline_styles=True, code_format=HTML)
