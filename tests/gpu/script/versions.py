"""What is here: packages, the card, its driver, kinds of attention, 4 bits."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata

from tests.gpu.script.bench import Bench
from tests.gpu.script.found import needs
from tests.gpu.script.internals import kinds_of_attention

PACKAGES = (
    *("torch", "transformers", "peft", "accelerate", "bitsandbytes", "triton", "unsloth"),
    *("unsloth_zoo", "trl", "datasets", "flash_attn", "platformdirs"),
)


def versions(bench: Bench) -> None:
    """Packages, the card and its driver; 4 bits there and back."""
    import torch

    bench.found.figure("python", platform.python_version())
    for name in PACKAGES:
        bench.found.figure(name, _version(name))
    bench.found.figure("CUDA", torch.version.cuda or "none")
    bench.found.figure("card", torch.cuda.get_device_name(0) if bench.has_gpu else "none")
    if bench.has_gpu:
        free, total = torch.cuda.mem_get_info()
        bench.found.figure("GiB free, in all", [round(n / 2**30, 1) for n in (free, total)])
        bench.found.figure("driver", _driver())
    needs("bitsandbytes")
    bench.found.figure("attention", [name for name, kind in kinds_of_attention().items() if kind])
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
