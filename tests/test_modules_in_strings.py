"""Modules that are named in strings: no linter looks there."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trials.backends.loading import BACKEND_MODULES
from trials.parent import module_command

ROOT = Path(__file__).parents[1]
FILES = [path for folder in ("sweep", "trials") for path in (ROOT / folder).rglob("*.py")]


def started() -> Iterator[tuple[Path, str]]:
    """The modules that processes are started with, as they stand there."""
    for path in FILES:
        if path == ROOT / "trials/parent.py":  # where it is passed on
            continue
        names: dict[str, str] = {}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
                    names[name] = text
                case ast.Call(
                    func=ast.Name(
                        id="module_command" | "job_command" | "child_command" | "run_module"
                    ),
                    args=[module, *_],
                ):
                    name = ast.literal_eval(module) if isinstance(module, ast.Constant) else ""
                    yield path, name or names[ast.unparse(module)]


def test_each_module_that_is_started_is_there() -> None:
    modules = {module for _, module in started()}
    assert len(modules) >= 9
    for module in modules - {"sweep", "mlflow", "pip"}:
        assert importlib.util.find_spec(module) is not None, module
        path = ROOT / (module.replace(".", "/") + ".py")
        last = ast.parse(path.read_text(encoding="utf-8")).body[-1]  # what comes later is unknown
        assert ast.unparse(last).startswith("if __name__ == '__main__':"), module


def test_every_process_that_is_started_ends_with_this_one() -> None:
    """By `run_module`, or by its standard input; nvidia-smi ends by itself.

    What `--on-end` runs is the user's own.
    """
    started = {
        path.relative_to(ROOT).as_posix()
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("subprocess.run", "subprocess.Popen", "os.system")
        and "stdin=subprocess.PIPE" not in ast.unparse(node)
    }
    assert started == {"trials/parent.py", "trials/machine/cards.py", "sweep/cli/on_end.py"}


def test_every_module_is_started_in_one_place() -> None:
    """`-m` and `-c` import from the current folder, but for what stands beside them there."""
    flags = [
        (path.relative_to(ROOT).as_posix(), word.value)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.List)
        and len(node.elts) > 1
        and ast.unparse(node.elts[0]) != "'llama-server'"  # whose -m is another
        for word in node.elts
        if isinstance(word, ast.Constant) and word.value in ("-P", "-m", "-c")
    ]
    assert flags == [("trials/parent.py", flag) for flag in ("-P", "-m", "-m")]
    assert module_command("sweep") == [sys.executable, "-P", "-m", "sweep"]


@pytest.mark.parametrize("module", BACKEND_MODULES.values())
def test_each_backend_is_there(module: str) -> None:
    assert importlib.util.find_spec(module) is not None


def test_the_learner_that_the_fault_campaign_sticks_in_is_there() -> None:
    text = (ROOT / "tests/faults/stuck/sitecustomize.py").read_text(encoding="utf-8")
    found = [
        node.comparators[0].value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Compare) and isinstance(node.comparators[0], ast.Constant)
    ]
    module = next(name for name in found if isinstance(name, str) and name.startswith("trials."))
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    assert "class Learner" in Path(spec.origin).read_text(encoding="utf-8")
