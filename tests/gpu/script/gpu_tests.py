"""`pytest -m gpu` in shares, since each test starts processes of its own; told test by test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.gpu.script.bench import Bench
from tests.gpu.script.found import needs

if TYPE_CHECKING:
    import pytest

TESTS = Path(__file__).parents[1] / "test_cuda.py"
UNSLOTH = "(unsloth or backends)"
BASE_LOSS, CACHE, MEMORY = "before_the_first_step", "cache", "(memory or warm)"


def unsloth(bench: Bench) -> None:
    needs("unsloth")
    run(bench, f"{UNSLOTH} and not {CACHE} and not {MEMORY}")


def unsloth_memory(bench: Bench) -> None:
    needs("unsloth")
    run(bench, f"{UNSLOTH} and {MEMORY}")


def unsloth_cache(bench: Bench) -> None:
    needs("unsloth")
    run(bench, f"{UNSLOTH} and {CACHE}")


def base_loss(bench: Bench) -> None:
    run(bench, f"not {UNSLOTH} and {BASE_LOSS}")


def cache(bench: Bench) -> None:
    run(bench, f"not {UNSLOTH} and {CACHE}")


def others(bench: Bench) -> None:
    run(bench, f"not {UNSLOTH} and not {BASE_LOSS} and not {CACHE}")


def run(bench: Bench, chosen: str) -> None:
    """Run the tests that an expression chooses; what each comes to is known at once."""
    needs("pytest", "bitsandbytes")
    bench.needs_gpu()
    import pytest

    told = Told(bench)
    # Warnings of versions that are not ours must not hide what the GPU does.
    arguments = ["-m", "gpu", "-k", chosen, "-W", "default", "-p", "no:cacheprovider", "-v"]
    pytest.main([str(TESTS), *arguments], plugins=[told])
    bench.found.expect(told.n["passed"] > 0, "no test has passed")


class Told:
    """A plugin of pytest."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.n: dict[str, int] = dict.fromkeys(("passed", "failed", "skipped"), 0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        self.n[report.outcome] += 1
        if report.outcome == "failed":
            name = report.nodeid.split("::")[-1]
            self._bench.found.wrong(f"{name}: {_first_line(report.longrepr)}")
        self._bench.found.figure(report.outcome, self.n[report.outcome])


def _first_line(report: object) -> str:
    crash = getattr(report, "reprcrash", None)
    lines: Sequence[str] = str(getattr(crash, "message", report)).strip().splitlines()
    return lines[0][:300] if lines else "no message"
