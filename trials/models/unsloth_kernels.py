"""Which base models Unsloth trains as transformers does: those it has kernels of its own for.

Read in the source of Unsloth 2026.10.7 (unsloth/models, unsloth_zoo 2026.10.9), whose files are
named where a fact is from them. The others it hands to its FastModel, which rewrites transformers'
own code, keeps other modules out of 4 bits and filters the names of adapted modules.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from trials.config import ConfigError, ModelConfig, Quantization

_SILU, _GELU = ("hidden_act", "silu"), ("hidden_act", "gelu_pytorch_tanh")

# loader.py, FastLanguageModel.from_pretrained: all else is FastModel's. llama.py, patch_peft_model:
# the fused MLP has one activation for each, whatever config.json says.
ACTIVATIONS: Mapping[str, tuple[str, str]] = {
    "llama": _SILU,
    "mistral": _SILU,
    "qwen2": _SILU,
    "qwen3": _SILU,
    "gemma": _GELU,
    "gemma2": ("hidden_activation", "gelu_pytorch_tanh"),
}
"""The key and the value of config.json, for each model type."""

NOT_GEMMA = {"linear", "llama3", "yarn"}
"""Scaled positions that it computes as transformers does; Gemma's it leaves out (llama.py)."""


def objection(
    config: Mapping[str, Any] | None,
    *,
    name: str,
    quantization: Quantization,
    max_length: int,
    trust_remote_code: bool,
) -> str | None:
    """Say why Unsloth would not train a base model as transformers does, or None.

    Args:
        config: The model's config.json; None: it cannot be read, and whoever loads it says why.
        name: Its hub id or folder.
        max_length: Tokens of the longest row.
    """
    if config is None:
        return None
    kind = str(config.get("model_type"))
    if kind not in ACTIVATIONS:
        return f"Unsloth has no kernels of its own for {kind}, only for {', '.join(ACTIVATIONS)}"
    return next(_objections(config, kind, name, quantization, max_length, trust_remote_code), None)


def check_kernels(model: ModelConfig, config: Mapping[str, Any] | None) -> None:
    """The same where the model is loaded, for a config.json that the command could not read.

    Raises:
        ConfigError: With the mend.
    """
    why = objection(
        config,
        name=model.name,
        quantization=model.quantization,
        max_length=model.max_length,
        trust_remote_code=model.trust_remote_code,
    )
    if why:
        raise ConfigError(f"backend: {why}; write backend: transformers.")


def _objections(
    config: Mapping[str, Any],
    kind: str,
    name: str,
    quantization: Quantization,
    max_length: int,
    runs_code: bool,
) -> Iterator[str]:
    key, expected = ACTIVATIONS[kind]
    if (found := config.get(key, expected)) != expected:
        yield f"Unsloth's kernels for {kind} compute {expected}, not {found}"
    if runs_code and config.get("auto_map"):
        yield "Unsloth's kernels do not know the model's own code"
    if config.get("use_sliding_window"):
        # llama.py, LlamaModel_fast_forward: in training there is no mask that could hold it.
        yield f"Unsloth leaves out {kind}'s sliding window"
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    scaling = rope.get("rope_type") or rope.get("type") or "default"
    if scaling != "default" and (kind.startswith("gemma") or scaling not in NOT_GEMMA):
        yield f"Unsloth does not compute {scaling} positions of {kind}"
    longest = config.get("max_position_embeddings")
    if isinstance(longest, int) and max_length > longest:
        # llama.py, from_pretrained: every position is then divided by their ratio.
        yield f"Unsloth changes the positions of a model of {longest} for max_length {max_length}"
    if quantization == "int8":  # loader.py: FastModel's too
        yield "Unsloth has no fast path for int8"
    if quantization == "nf4" and name.lower().endswith("-bf16"):
        # loader.py: by its name it counts as a checkpoint that stays in 16 bits.
        yield "Unsloth loads a model named …-bf16 in 16 bits, not in nf4"
