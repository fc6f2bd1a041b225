"""A frozen base model: where it comes from, who loads it, what a worker may do with it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from trials.config import ComputeDtype, ConfigError, ModelConfig, TrialConfig
from trials.models.smollm2 import is_builtin, smollm2_dir

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

BACKEND_MODULES = {
    "transformers": "trials.backends.transformers_qlora",
    "unsloth": "trials.backends.unsloth_qlora",
}

TARGET_MODULES: Mapping[str, str | list[str]] = {
    # Names of Llama, Mistral, Qwen, Gemma and SmolLM; the packed ones are those of Phi-3 and later.
    "all-linear": "all-linear",
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj"],
    "mlp": ["gate_proj", "up_proj", "down_proj", "gate_up_proj"],
    "qv": ["q_proj", "v_proj", "qkv_proj"],
}


class FrozenBase(Protocol):
    """A base model in a worker: loaded once, it carries one adapter at a time."""

    device: torch.device
    dtype: torch.dtype
    """Of the matrix products."""
    load_seconds: float
    activation_bytes_per_token: float
    """See `trials.memory.micro_batches`; without an adapter."""

    def add_adapter(self, config: TrialConfig) -> Any:
        """Return the base with a new, untrained adapter (a peft model).

        It follows from the trial's seed; the generators are left as that leaves them.

        Raises:
            ConfigError: The backend cannot train such an adapter.
        """

    def recompute_activations(self) -> None:
        """From now on compute activations again in the backward pass, instead of keeping them.

        Until the adapter is removed; may be called in the middle of a training. Slower by about a
        third, in much less memory, with the same result.
        """

    def remove_adapter(self) -> None:
        """Give the base back as it was loaded.

        Raises:
            BaseNotClean: Something of the trial is left; the process must be replaced.
        """

    def nll_sum(self, model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the negative log-likelihood summed over the supervised tokens, in nats.

        Args:
            batch: `input_ids`, `attention_mask`, `labels`, each (batch, sequence), on the host
                (pinned, where the device is a GPU) and padded on the right; a label is -100 where
                there is no loss. The first token of a row is never a target.

        Returns:
            A float32 scalar on the device. The call does not wait for the device.
        """

    def nll_rows(
        self, model: Any, batch: Mapping[str, torch.Tensor], *, counts_correct: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return `nll_sum` of each row, (batch,) in float64, and, where asked for, how many
        supervised tokens are the model's first choice.

        A backend that knows the sum alone gives it to the first row, and 0 to the others.
        """

    def generate(
        self, prompts: Sequence[Sequence[int]], *, stop_ids: Sequence[int], max_new_tokens: int
    ) -> list[list[int]]:
        """Continue each prompt greedily, with the adapter as it is, up to a token of `stop_ids`.

        Returns:
            The new tokens of each, without the one that ended it.
        """


class BaseNotClean(RuntimeError):
    """The frozen base is not what was loaded."""


def load(config: ModelConfig, gpu_share: float = 1.0) -> FrozenBase:
    """Load the base model with the backend of `config`, whose module is imported only now.

    Unsloth patches transformers and peft when it is imported, so a process holds one backend.

    Args:
        gpu_share: Of the GPU's memory that this process may take, from 0 to 1.
    """
    backend = importlib.import_module(BACKEND_MODULES[config.backend])
    if gpu_share < 1.0:
        from trials.memory.micro_batches import limit_memory

        limit_memory(gpu_share)
    base: FrozenBase = backend.load(config)
    return base


def compute_dtype(name: ComputeDtype, device: torch.device) -> torch.dtype:
    """Return the type of the matrix products; auto is bfloat16 unless the GPU only emulates it."""
    import torch

    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def local_or_hub(name: str) -> str:
    """Return what `from_pretrained` takes: the built-in model's folder, else `name` itself."""
    return str(smollm2_dir()) if is_builtin(name) else name


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """Return the model's tokenizer.

    Raises:
        ConfigError: It has no end of sequence, so no completion could be closed.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        local_or_hub(config.name),
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
    )
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"base_model {config.name}: its tokenizer has no end-of-sequence token, so a model "
            f"could never learn where a completion ends. Choose a model with a complete tokenizer."
        )
    loaded: PreTrainedTokenizerBase = tokenizer
    return loaded
