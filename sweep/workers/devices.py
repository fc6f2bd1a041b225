"""Where trials run: on GPUs or on processors, and how many at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.errors import StudyError
from trials.machine.cards import named_devices

if TYPE_CHECKING:
    from sweep.space.space import Space

GPUS_OF_THE_DRIVER = Path("/proc/driver/nvidia/gpus")


def wants_gpus(*, workers: int | None, gpus: int | None = None) -> bool:
    """Whether trials run on GPUs: unless workers are asked for, or no GPU is to be seen.

    Asks neither torch nor Ray: both take seconds to start, and bad input must not wait for them.

    Args:
        workers, gpus: As on the command line; None where they are not given.
    """
    if workers is not None:
        return False
    if gpus is not None or "RAY_ADDRESS" in os.environ or _ray_has_gpus():
        return True
    return sees_gpus()


def sees_gpus() -> bool:
    """Whether this machine has GPUs that are not hidden."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return GPUS_OF_THE_DRIVER.is_dir() or Path("/dev/dxg").exists()


def _ray_has_gpus() -> bool:
    ray = sys.modules.get("ray")
    return bool(ray and ray.is_initialized() and ray.cluster_resources().get("GPU", 0))


def n_visible_gpus() -> int | None:
    """GPUs that the driver lists, less those hidden; None: unknown. Asks neither torch nor Ray."""
    if (named := named_devices()) is not None:
        return len(named)
    return len(list(GPUS_OF_THE_DRIVER.iterdir())) if GPUS_OF_THE_DRIVER.is_dir() else None


def gpus_for_ray() -> dict[str, int]:
    """What `ray.init` must be told: it counts cards, where MIG's slices are devices."""
    names = named_devices() or []
    return {"num_gpus": len(names)} if any(name.startswith("MIG-") for name in names) else {}


def n_gpu_slots(space: Space, *, asked: int | None, there: int) -> int:
    """Trials at once on GPUs.

    Args:
        asked: GPUs to use; None: all that are there.

    Raises:
        StudyError: There are too few.
    """
    if there == 0:
        raise StudyError(
            "No GPU is visible here. Check nvidia-smi and CUDA_VISIBLE_DEVICES, or run on CPUs "
            "with --workers 2."
        )
    if asked is not None and asked > there:
        raise StudyError(f"--gpus: must be at most {there}, the GPUs there are, not {asked}.")
    usable, per_trial = asked or there, space.settings.gpus_per_trial
    if per_trial > usable:
        raise StudyError(
            f"gpus_per_trial: must be at most {usable}, the GPUs of the sweep, not {per_trial:g}. "
            f"Lower it, or add GPUs."
        )
    return places_on(usable, per_trial)


def places_on(n_gpus: float, gpus_per_trial: float) -> int:
    """Trials that the GPUs of one machine hold at once; a share of a GPU lies on one of them."""
    if gpus_per_trial >= 1:
        return int(n_gpus // gpus_per_trial)
    return int(n_gpus) * int(1 / gpus_per_trial + 1e-9)  # 1 / 0.1 is 10, whatever floats say


def n_workers(space: Space, asked: int | None) -> int:
    """Trials at once on processors: as asked, else up to four, with a core for each process."""
    return asked or max(1, min(4, (os.cpu_count() or 1) // space.settings.processes_per_trial))


def training_environment(
    *, n_slots: int, n_processes: int = 1, n_cores: int | None = None
) -> dict[str, str]:
    """What a process that trains must have in its environment before it imports torch.

    Its threads are its share of the cores: more of them than cores slow a step down by an order of
    magnitude, and sums come out a little different with another number of them. Where others use
    the cores too, threads that wait for each other must not spin, which does the same.

    Args:
        n_slots: Trials at once.
        n_processes: Of each.
        n_cores: That they share; None: all of this machine.
    """
    threads = str(max(1, (n_cores or os.cpu_count() or 1) // (n_slots * n_processes)))
    return {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        # CUDA's own order begins with the fastest: GPU 1 would be another one than nvidia-smi's.
        "CUDA_DEVICE_ORDER": os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
        # Micro-batches of many lengths would else leave holes that no later one fits into.
        "PYTORCH_CUDA_ALLOC_CONF": os.environ.get(
            "PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"
        ),
    }
