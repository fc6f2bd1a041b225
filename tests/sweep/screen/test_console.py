"""Text that goes to a file or a pipe."""

import io

from rich.table import Table
from rich.text import Text

from sweep.screen.console import CleanConsole


def shown(*, terminal: bool) -> list[str]:
    out = io.StringIO()
    table = Table("a", "b", box=None, padding=(0, 2, 0, 0))
    table.add_row("", "1")
    table.add_row(Text("two words"), "")
    console = CleanConsole(file=out, width=20, force_terminal=terminal, color_system=None)
    console.print(table)
    console.print(Text("a line that is folded at its spaces"))
    return out.getvalue().splitlines()


def test_lines_of_a_file_end_without_spaces() -> None:
    lines = shown(terminal=False)
    assert [line.rstrip() for line in lines] == lines
    assert lines[:3] == ["a          b", "           1", "two words"]
    assert lines == [line.rstrip() for line in shown(terminal=True)]
