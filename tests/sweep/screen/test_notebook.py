"""A sweep in a real notebook kernel: its table, its summary, and the stop button."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbclient.util import ensure_async

from tests.faults.campaign import REPOSITORY, write_space

# Of the client's own libraries: pyzmq's event loop and jupyter's paths.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

CELL = """\
import sweep
result = sweep.run({space!r}, output={output!r}, workers=2, settings={settings!r})
print("exit code", result.exit_code)
result
"""


@pytest.fixture
def space(tmp_path: Path, tiny_base: Path) -> Path:
    return write_space(tmp_path / "space", tiny_base, n_trials=3, epochs="[20]")


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    yield
    assert not list(Path.cwd().glob("sweeps/tiny")), "nothing beside --output"


class Shown:
    """What a cell has shown, as the notebook keeps it."""

    def __init__(self, cell: Any) -> None:
        self._outputs = cell.outputs

    @property
    def html(self) -> list[str]:
        """The HTML of each output that has some."""
        return [o.data["text/html"] for o in self._outputs if "text/html" in o.get("data", {})]

    @property
    def text(self) -> str:
        """What was printed."""
        return "".join(o.text for o in self._outputs if o.output_type == "stream")


def notebook(space: Path, **settings: object) -> NotebookClient:
    source = CELL.format(
        space=str(space), output=str(space.parent / "out"), settings=settings or {}
    )
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    return NotebookClient(made, timeout=300, kernel_name="python3")


@pytest.mark.long
def test_a_notebook_shows_the_table_and_the_summary(space: Path) -> None:
    client = notebook(space)
    seen: list[str] = []

    class Watched(NotebookClient):
        def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
            if msg["msg_type"] == "update_display_data":
                seen.append(msg["content"]["data"]["text/html"])
            return super().process_message(msg, cell, cell_index)

    watched = Watched(client.nb, timeout=300, kernel_name="python3")
    watched.execute()
    shown = Shown(watched.nb.cells[0])
    assert "exit code 0" in shown.text
    # While it ran the table was replaced again and again, in one place.
    assert any("eval curve" in html and "trials ended" in html for html in seen)
    tables = [html for html in shown.html if "trials ended" in html]
    assert len(tables) == 1
    assert "ipywidgets" not in shown.text
    assert "3 of 3 trials ended" in tables[0]
    assert any("winner" in html for html in shown.html), shown.html
    assert any("the best of 3 trials by eval loss" in html for html in shown.html)
    if where := os.environ.get("SWEEP_KEEP_NOTEBOOK"):
        nbformat.write(watched.nb, where)


@pytest.mark.long
def test_the_stop_button_ends_the_sweep_in_order(space: Path) -> None:
    client = notebook(space, **{"budget.trials": 50, "search.epochs": 200})
    pressed: list[float] = []

    def press_stop_when_trials_run() -> None:
        trials = space.parent / "out" / "tiny" / "trials"
        deadline = time.monotonic() + 200
        while not list(trials.glob("*/log.txt")) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert client.km is not None
        pressed.append(time.monotonic())
        asyncio.run(ensure_async(client.km.interrupt_kernel()))

    button = threading.Thread(target=press_stop_when_trials_run)
    button.start()
    try:
        client.execute()
    except CellExecutionError as error:  # a KeyboardInterrupt would be one
        raise AssertionError(Shown(client.nb.cells[0]).text) from error
    button.join()
    shown = Shown(client.nb.cells[0])
    assert pressed
    assert "exit code 130" in shown.text
    assert any("Stopping: running trials write a checkpoint" in html for html in shown.html)
