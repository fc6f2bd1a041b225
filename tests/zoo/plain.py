"""The reference: plain transformers and peft, one row at a time.

Of this project it has one thing: which layers are quantised, and by which kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trials.models.quantisation import bitsandbytes_config, keep_cpu_kernels_differentiable

IGNORED = -100

Row = Mapping[str, Sequence[int]]
"""`input_ids` and `labels`."""


@dataclass(frozen=True, slots=True)
class Losses:
    """Of some rows."""

    rows: list[float]
    """Nats of each."""
    n_tokens: int
    """Supervised ones, of all rows."""

    @property
    def mean(self) -> float:
        """Nats per supervised token."""
        return sum(self.rows) / self.n_tokens


class Plain:
    """A model of the class that its config.json names, perhaps quantised, perhaps adapted."""

    def __init__(
        self, folder: Path, quantization: str, dtype: torch.dtype, adapter: Path | None = None
    ) -> None:
        import transformers
        from peft import PeftModel

        self._dtype = dtype
        config = transformers.AutoConfig.from_pretrained(folder)
        kind = getattr(transformers, config.architectures[0])
        settings: dict[str, Any] = {"dtype": dtype, "device_map": {"": "cpu"}}
        if quantization != "none":
            with torch.device("meta"):
                shapes = kind(config)
            settings["quantization_config"] = bitsandbytes_config(quantization, dtype, shapes)
        model = kind.from_pretrained(folder, **settings)
        keep_cpu_kernels_differentiable(model)
        self.model: Any = model if adapter is None else PeftModel.from_pretrained(model, adapter)
        self.model.eval()

    def merge(self, dtype: torch.dtype) -> None:
        """Add the adapter to the weights, as peft does, then compute in `dtype`."""
        self.model = self.model.merge_and_unload().to(dtype).eval()
        self._dtype = dtype

    @torch.no_grad()
    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        """Return those of a row, (tokens, vocabulary), in float32."""
        with torch.autocast("cpu", self._dtype, enabled=self._dtype is not torch.float32):
            found = self.model(input_ids=torch.tensor([list(ids)]), use_cache=False)
        logits: torch.Tensor = found.logits[0].float()
        return logits

    def losses(self, rows: Sequence[Row]) -> Losses:
        """Return the negative log-likelihood of each row's supervised tokens."""
        nats, n_tokens = [], 0
        for row in rows:
            labels = torch.tensor(list(row["labels"]))[1:]
            is_target = labels != IGNORED
            logits = self.logits(row["input_ids"])[:-1][is_target]
            loss = torch.nn.functional.cross_entropy(logits, labels[is_target], reduction="sum")
            nats.append(float(loss))
            n_tokens += int(is_target.sum())
        return Losses(nats, n_tokens)

    @torch.no_grad()
    def greedy(self, prompt: Sequence[int], *, stop_id: int, max_new_tokens: int) -> list[int]:
        """Continue a prompt by itself; the token that ends it is left out."""
        ids = torch.tensor([list(prompt)])
        with torch.autocast("cpu", self._dtype, enabled=self._dtype is not torch.float32):
            found = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=max_new_tokens,
                eos_token_id=stop_id,
                pad_token_id=stop_id,
            )
        new: list[int] = found[0, len(prompt) :].tolist()
        return new[: new.index(stop_id)] if stop_id in new else new
