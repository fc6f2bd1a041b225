"""What each part is given, and how a trial is run in it."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.gpu.script.found import Found, Missing
from trials.config import (
    Backend,
    EvalPoint,
    ModelConfig,
    Outcome,
    Quantization,
    TrialConfig,
    short_trial,
)
from trials.models.frozen_base import FrozenBase

MIB = 2**20


@dataclass(frozen=True)
class Bench:
    """Where a part runs, and where it writes what it finds."""

    folder: Path
    """Of the rows and logs of all parts."""
    scratch: Path
    """Of the models that parts share; it goes when all have ended."""
    name: str
    """The part's."""
    asked_small: bool
    found: Found

    @functools.cached_property
    def has_gpu(self) -> bool:
        import torch

        return torch.cuda.is_available()

    @property
    def small(self) -> bool:
        """Whether models are tiny: where it is asked for, and on processors."""
        return self.asked_small or not self.has_gpu

    @functools.cached_property
    def work(self) -> Path:
        """The part's own folder."""
        folder = self.scratch / "work" / self.name
        folder.mkdir(parents=True)
        return folder

    def needs_gpu(self) -> None:
        """Raises Missing where there is none."""
        if not self.has_gpu:
            raise Missing("needs a GPU")


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial that has run."""

    outcome: Outcome
    reason: str
    points: list[EvalPoint]
    micro_batch_size: int | None
    recomputes: bool | None
    held_mib: float
    """Of the device when it had ended, by torch's allocator; 0 on processors."""

    @property
    def losses(self) -> list[float]:
        """By evaluation; a trial that was begun again reports some twice."""
        return list({point.index: point.eval_loss for point in self.points}.values())


def model_config(
    folder: Path, backend: Backend, quantization: Quantization, **changes: Any
) -> ModelConfig:
    settings: dict[str, Any] = {
        "name": str(folder),
        "revision": None,
        "quantization": quantization,
        "compute_dtype": "auto",
        "backend": backend,
        "max_length": 512,
        "trust_remote_code": False,
    }
    return ModelConfig(**settings | changes)


def trial_config(
    bench: Bench, number: int, model: ModelConfig, data_dir: Path, **changes: Any
) -> TrialConfig:
    """A trial of a few steps; name what should differ."""
    settings: dict[str, Any] = {
        "number": number,
        "data_dir": str(data_dir),
        "output_dir": str(bench.work / f"{number:03d}"),
        "rank": 16,
        "alpha": 32.0,
        "micro_batch_size": 8,
        "eval_batch_size": 8,
        "n_evaluations": 2,
        "evaluate_base": True,
        "checkpoint_minutes": 1e9,
        "stall_minutes": 1e9,
    }
    return short_trial(model, **settings | changes)


def loaded(bench: Bench, model: ModelConfig, gpu_share: float = 1.0) -> FrozenBase:
    """Load a base model as a worker does, and note what it took."""
    if not (Path(model.name) / "config.json").exists():
        raise Missing(f"{model.name} was not made")
    # Before all that imports transformers or peft: Unsloth patches them.
    base = importlib.import_module("trials.backends.loading").load(model, gpu_share)
    bench.found.figure("load s", round(base.load_seconds, 1))
    bench.found.figure("loaded MiB", round(held_mib()))
    return base  # type: ignore[no-any-return]


def run(
    config: TrialConfig, base: FrozenBase, after_step: Callable[[], bool] = lambda: False
) -> Trial:
    """Run a trial; what it raises is the part's end."""
    # Not at the top: they import peft.
    from trials.memory.micro_batches import MicroBatchMemory
    from trials.training.train import run_trial

    points: list[EvalPoint] = []
    Path(config.output_dir).mkdir(parents=True)
    result = run_trial(
        config, base, MicroBatchMemory(), points.append, after_step=lambda *_: after_step()
    )
    return Trial(
        result.outcome,
        result.reason,
        points,
        result.micro_batch_size,
        result.gradient_checkpointing,
        held_mib(),
    )


def expect_learnt(bench: Bench, trial: Trial, name: str) -> None:
    """A trial has come to its end, and to a lower loss."""
    expect = bench.found.expect
    expect(trial.outcome == "completed", f"{name}: {trial.outcome}, {trial.reason}")
    learnt = len(trial.losses) > 1 and trial.losses[-1] < trial.losses[0]
    expect(learnt, f"{name}: the loss did not fall: {trial.losses}")


def held_mib() -> float:
    """Device memory that torch's allocator has handed out."""
    import torch

    return torch.cuda.memory_allocated() / MIB if torch.cuda.is_available() else 0.0


@contextlib.contextmanager
def only_with_checkpointing(base: FrozenBase) -> Iterator[None]:
    """Let every training pass run out of memory until activations are computed again."""
    import torch

    nll_sum, recompute = base.nll_sum, base.recompute_activations
    recomputes: list[bool] = []

    def failing(model: Any, batch: Any) -> torch.Tensor:
        if model.training and not recomputes:
            raise torch.OutOfMemoryError("CUDA out of memory. As this trial is to have it.")
        return nll_sum(model, batch)

    def recomputing() -> None:
        recomputes.append(True)
        recompute()

    with (
        patch.object(base, "nll_sum", failing),
        patch.object(base, "recompute_activations", recomputing),
    ):
        yield
