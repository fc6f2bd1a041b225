"""A tiny model in a precision, prepared, loaded and trained as a sweep does it."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from tests.tiny import ADAPTERS, request
from tests.zoo.build import write_rows
from tests.zoo.plain import Losses, Plain, Row
from trials import exported
from trials.backends.loading import load
from trials.backends.transformers_qlora import TransformersBase
from trials.config import (
    ComputeDtype,
    EvalPoint,
    ModelConfig,
    Quantization,
    TrialConfig,
    short_trial,
)
from trials.data.tokens import TokenRows
from trials.preparation.prepare import prepare
from trials.trial_folder import ADAPTER

PRECISIONS: Mapping[str, tuple[Quantization, ComputeDtype]] = {
    "nf4": ("nf4", "auto"),
    "int8": ("int8", "auto"),
    "none": ("none", "auto"),
    "float32": ("none", "float32"),
}
PRESETS = ("all-linear", "attention", "mlp", "qv")
MAX_LENGTH = 64


@dataclass
class Bench:
    """A model in a precision, prepared as for a sweep."""

    folder: Path
    precision: str
    work: Path
    experts: bool = False
    """Whether the trials adapt the routed experts too."""
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)
    modules: dict[str, Any] = field(default_factory=dict)
    logged: EvalPoint | None = None
    """The best evaluation of the first trial, whose adapter is on disk."""
    _base: TransformersBase | None = None
    _plain: Plain | None = None

    def model(self) -> ModelConfig:
        quantization, dtype = PRECISIONS[self.precision]
        return ModelConfig(
            name=str(self.folder),
            revision=None,
            quantization=quantization,
            compute_dtype=dtype,
            backend="transformers",
            max_length=MAX_LENGTH,
            trust_remote_code=False,
        )

    @property
    def data_dir(self) -> Path:
        return self.work / "prepared"

    def prepare(self, target_modules: str = "all-linear", to: Path | None = None) -> Any:
        """Do what `sweep check` does; raises what it would say."""
        self.work.mkdir(parents=True, exist_ok=True)
        adapters = replace(ADAPTERS, target_modules=[target_modules], experts=[self.experts])
        return prepare(
            request(
                self.folder,
                to or self.data_dir,
                model=self.model(),
                train=write_rows(self.work / "train.jsonl", 16, seed=2),
                eval=write_rows(self.work / "eval.jsonl", 8, seed=3),
                adapters=adapters,
                max_lengths=[MAX_LENGTH],
                smallest_epochs=100,  # else the sample would be made smaller than 8 rows
            )
        )

    def config(self, number: int, **changes: Any) -> TrialConfig:
        settings: dict[str, Any] = {
            "number": number,
            "data_dir": str(self.data_dir),
            "output_dir": str(self.work / "trials" / f"{number:03d}"),
            "rank": 4 if number % 2 else 8,
            "alpha": 32.0,
            "learning_rate": 5e-2,
            "epochs": 1,
            "effective_batch_size": 4,
            "micro_batch_size": 4,
            "eval_batch_size": 8,
            "lr_scheduler": "cosine",
            "n_evaluations": 2,
            "evaluate_base": True,
            "seed": number,
            "experts": self.experts,
        }
        return short_trial(self.model(), **settings | changes)

    def fresh_base(self) -> TransformersBase:
        """Load it once more, and have it pack as a large model would, where it may."""
        base = load(self.model())
        assert isinstance(base, TransformersBase)
        if base._cost is not None:
            base._cost = replace(base._cost, linear_weights=10**12)
        return base

    @property
    def base(self) -> TransformersBase:
        if self._base is None:
            self._base = self.fresh_base()
        return self._base

    def forget(self) -> None:
        """Load a new base next: something went wrong on this one."""
        self._base = None

    @contextlib.contextmanager
    def guarded(self, name: str) -> Iterator[None]:
        """Note a failure of what is named, and go on."""
        try:
            yield
        # Exception: whatever a library raises for this architecture is what is to be found out.
        except Exception as error:
            traceback.print_exc()
            self.faults.append(f"{name}: {in_words(error)}")
            self.forget()

    @property
    def dtype(self) -> torch.dtype:
        return exported.dtype_of(PRECISIONS[self.precision][1])

    @property
    def plain(self) -> Plain:
        if self._plain is None:
            self._plain = Plain(self.folder, PRECISIONS[self.precision][0], self.dtype)
        return self._plain

    def rows(self, split: str) -> TokenRows:
        return TokenRows(self.data_dir / split, MAX_LENGTH)

    def sample(self) -> list[Row]:
        rows = self.rows("sample")
        return [
            {name: values.tolist() for name, values in rows[index].items()}
            for index in range(len(rows.lengths))
        ]

    @property
    def adapter(self) -> Path:
        """Of the first trial."""
        return Path(self.config(0).output_dir) / ADAPTER

    def adapted_losses(self, quantization: str) -> Losses:
        """Of plain peft, with the first trial's adapter."""
        return Plain(self.folder, quantization, self.dtype, self.adapter).losses(self.sample())

    def merged_losses(self) -> Losses:
        """Of the base that plain peft has merged with that adapter in 16 bits."""
        merged = Plain(self.folder, "none", torch.bfloat16, self.adapter)
        merged.merge(self.dtype)
        return merged.losses(self.sample())


def in_words(error: BaseException) -> str:
    """Return an error in one line, with where it was raised: in our own code, if it was there."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/trials/" in frame.filename] or frames
    where = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]} ({where})"


def weight_names(folder: Path) -> set[str]:
    """Return the names of the weights that lie in a folder."""
    from safetensors import safe_open

    names: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            names |= set(weights.keys())
    return names
