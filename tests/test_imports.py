"""The arrows of the design: who may import whom, and what a quick command must not wait for."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sweep
import trials

SWEEP_DIR, TRIALS_DIR = Path(sweep.__path__[0]), Path(trials.__path__[0])


def imported(path: Path) -> set[str]:
    """The packages that a file imports anywhere: at its top, in a function, for its types."""
    packages = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            packages.add(str(node.module).split(".")[0])
    return packages


def importers(package: str) -> Iterator[str]:
    for folder in (SWEEP_DIR, TRIALS_DIR):
        for path in folder.rglob("*.py"):
            if package in imported(path):
                yield path.relative_to(folder.parent).as_posix()


def test_the_scan_sees_what_is_there() -> None:
    assert "trials/memory/micro_batches.py" in importers("torch")


@pytest.mark.parametrize("package", ["torch", "transformers", "peft", "bitsandbytes", "unsloth"])
def test_only_trials_train(package: str) -> None:
    assert [path for path in importers(package) if path.startswith("sweep/")] == []


@pytest.mark.parametrize("package", ["sweep", "optuna", "ray", "mlflow", "pydantic", "typer"])
def test_trials_know_nothing_of_the_sweep(package: str) -> None:
    assert [path for path in importers(package) if path.startswith("trials/")] == []


def test_ray_has_one_home() -> None:
    homes = ("sweep/cluster/", "sweep/workers/", "sweep/tune.py")
    assert [path for path in importers("ray") if not path.startswith(homes)] == []


def test_mlflow_has_one_home() -> None:
    assert set(importers("mlflow")) == {
        "sweep/tracking/registry.py",
        "sweep/tracking/runs.py",
        "sweep/tracking/sqlite_tables.py",
        "sweep/tracking/system_metrics.py",
    }


def test_postgresql_has_one_home() -> None:
    assert set(importers("psycopg")) == {"sweep/storage/postgresql.py"}


def test_plotly_has_one_home() -> None:
    assert set(importers("plotly")) == {"sweep/report/sections.py"}


def test_notebooks_have_one_home() -> None:
    assert set(importers("IPython")) == {"sweep/screen/notebook.py"}


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
