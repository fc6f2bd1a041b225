"""What is here; and the tests that only a GPU can run, told one by one."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from tests.gpu.script.bench import Bench
from tests.gpu.script.found import needs
from tests.gpu.script.internals import kinds_of_attention

PACKAGES = (
    *("torch", "transformers", "peft", "accelerate", "bitsandbytes", "triton", "unsloth"),
    *("unsloth_zoo", "trl", "datasets", "flash_attn", "platformdirs"),
)
TESTS = Path(__file__).parents[1] / "test_cuda.py"


def versions(bench: Bench) -> None:
    """Packages, the card and its driver; 4 bits there and back."""
    import torch

    bench.found.figure("python", platform.python_version())
    for name in PACKAGES:
        bench.found.figure(name, _version(name))
    bench.found.figure("CUDA", torch.version.cuda)
    bench.found.figure("card", torch.cuda.get_device_name(0) if bench.has_gpu else "none")
    if bench.has_gpu:
        free, total = torch.cuda.mem_get_info()
        bench.found.figure("GiB free, in all", [round(n / 2**30, 1) for n in (free, total)])
        bench.found.figure("driver", _driver())
    bench.found.figure("attention", [name for name, kind in kinds_of_attention().items() if kind])
    needs("bitsandbytes")
    _there_and_back(bench)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "-"


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown ({error})"


def _there_and_back(bench: Bench) -> None:
    import torch
    from bitsandbytes import functional

    torch.manual_seed(0)
    weight = torch.randn(4096, 64).to("cuda" if bench.has_gpu else "cpu", torch.bfloat16)
    in_4_bits, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    error = (functional.dequantize_4bit(in_4_bits, state) - weight).float().abs().mean().item()
    bench.found.figure("nf4 error", round(error, 4))
    # Of values drawn from N(0, 1) in blocks of 64; 0.073 on processors.
    bench.found.expect(0.06 < error < 0.09, f"nf4: a mean error of {error:.3f}, not near 0.073")


def tests_of_unsloth(bench: Bench) -> None:
    bench.needs_gpu()
    needs("unsloth")
    run_tests(bench, "unsloth or backends")


def tests_with_processes(bench: Bench) -> None:
    run_tests(bench, "not (unsloth or backends) and (cache or before_the_first_step)")


def other_tests(bench: Bench) -> None:
    run_tests(bench, "not (unsloth or backends or cache or before_the_first_step)")


def run_tests(bench: Bench, chosen: str) -> None:
    """Run the tests that an expression chooses; what each comes to is known at once."""
    needs("pytest", "bitsandbytes")
    bench.needs_gpu()
    import pytest

    told = _Told(bench)
    # Warnings of versions that are not ours must not hide what the GPU does.
    arguments = ["-m", "gpu", "-k", chosen, "-W", "default", "-p", "no:cacheprovider", "-v"]
    pytest.main([str(TESTS), *arguments], plugins=[told])
    told.tell()


class _Told:
    """A plugin of pytest."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._n = dict.fromkeys(("passed", "failed", "skipped"), 0)

    def pytest_runtest_logreport(self, report: object) -> None:
        outcome, when = str(vars(report)["outcome"]), vars(report)["when"]
        if when != "call" and outcome == "passed":
            return
        self._n[outcome] += 1
        name = str(vars(report)["nodeid"]).split("::")[-1]
        if outcome == "failed":
            self._bench.found.wrong(f"{name}: {_last_line(vars(report)['longrepr'])}")
        self.tell()

    def tell(self) -> None:
        for outcome, n in self._n.items():
            self._bench.found.figure(outcome, n)


def _last_line(report: object) -> str:
    crash = getattr(report, "reprcrash", None)
    lines: Sequence[str] = str(getattr(crash, "message", report)).strip().splitlines()
    return lines[0][:300] if lines else "no message"
