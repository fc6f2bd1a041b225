"""What a command must not wait for. Who may import whom: `lint-imports`, by pyproject.toml."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import sweep

SWEEP_DIR = Path(sweep.__path__[0])


def modules_after(code: str) -> set[str]:
    """The modules of a fresh process after `code`."""
    show = "import sys; sys.stderr.write('\\n' + ' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"try:\n    {code}\nfinally:\n    {show}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


def test_no_module_of_the_sweep_brings_torch() -> None:
    paths = (path.relative_to(SWEEP_DIR.parent) for path in SWEEP_DIR.rglob("[!_]*.py"))
    names = sorted(".".join(path.with_suffix("").parts) for path in paths)
    assert len(names) > 100
    modules = modules_after(f"import {', '.join(names)}")
    assert set(names) <= modules
    assert {"torch", "transformers", "peft"} & modules == set()


def test_help_waits_for_nothing() -> None:
    code = "import sys; sys.argv = ['sweep', '--help']; from sweep.cli.app import main; main()"
    modules = modules_after(code)
    assert "sweep.cli.app" in modules
    assert {"torch", "ray", "mlflow", "optuna", "pydantic"} & modules == set()


def test_reading_rows_waits_for_nothing() -> None:
    modules = modules_after("import trials.preparation.prepare, trials.data.examples")
    assert {"torch", "transformers", "datasets", "pyarrow"} & modules == set()


def test_studies_are_opened_in_study_storage_and_the_one_reader() -> None:
    opens = {"load_study", "create_study", "RDBStorage", "InMemoryStorage", "JournalStorage"}
    found = set()
    for path in SWEEP_DIR.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Attribute(attr=name) | ast.alias(name=name) if name in opens:
                    found.add(path.relative_to(SWEEP_DIR).as_posix())
    places = {place.rpartition("/")[0] for place in found - {"results/reading.py"}}
    assert "results/reading.py" in found
    assert places == {"study", "storage"}
