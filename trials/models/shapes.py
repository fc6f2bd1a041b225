"""The base model without its weights: which class loads it, and what shapes it has."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
)

from trials.config import ConfigError, ModelConfig
from trials.models.sources import local_or_hub

_LOADABLE = {
    AutoModelForCausalLM: MODEL_FOR_CAUSAL_LM_MAPPING,
    # A text model within a wrapper, beside towers that read images or sounds.
    AutoModelForMultimodalLM: MODEL_FOR_MULTIMODAL_LM_MAPPING,
    AutoModelForImageTextToText: MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
}


def auto_class(config: Any) -> Any:
    """Return the class of transformers that loads a model of this configuration.

    Where several do, the one that makes what the checkpoint's `architectures` names: of Qwen3.5,
    for one, `AutoModelForCausalLM` would drop the vision tower, and name all weights otherwise.

    Raises:
        ConfigError: None does, or what it makes cannot be trained to continue a text.
    """
    named = [*(getattr(config, "architectures", None) or ()), ""][0]
    made = {auto: mapping.get(type(config), None) for auto, mapping in _LOADABLE.items()}
    made = {auto: model for auto, model in made.items() if model is not None}
    if not made:
        # A model whose code comes with it.
        own = getattr(config, "auto_map", None) or {}
        made = {auto: None for auto in _LOADABLE if auto.__name__ in own}
    as_named = (auto for auto, model in made.items() if model and model.__name__ == named)
    auto = next(as_named, next(iter(made), None))
    if why := _why_not(config, named or config.model_type, made.get(auto)):
        raise ConfigError(no_next_token(config, why))
    return auto


def was_loaded_as_text(config: Any) -> bool:
    """Whether earlier versions loaded a wrapper's text part alone, as AutoModelForCausalLM does."""
    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and auto_class(config) is not (
        AutoModelForCausalLM
    )


def no_next_token(config: Any, what: str) -> str:
    """Say that the model cannot be trained here, since it is `what`."""
    return (
        f"base_model: must be a model that continues a text by its next token, but "
        f"{config.name_or_path} is {what}. Choose a decoder, alone or with towers for images or "
        f"sounds."
    )


def _why_not(config: Any, named: str, model: Any) -> str | None:
    """Say what keeps a model from being trained on texts alone; None: nothing is known."""
    if getattr(config, "is_encoder_decoder", False):
        return f"an encoder with a decoder ({named})"
    text = getattr(config, "text_config", None) or config
    sees_all = getattr(text, "use_bidirectional_attention", None) in (True, "all")
    is_decoder = getattr(config, "is_decoder", False)
    is_encoder = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not is_decoder
    if sees_all or is_encoder:
        return f"one whose tokens see those after them ({named})"
    if model is None:
        return None if getattr(config, "auto_map", None) else f"of no such kind ({named})"
    taken = dict([*inspect.signature(model.forward).parameters.items()][1:])  # without self
    needed = {
        name for name, one in taken.items() if one.default is one.empty and one.kind is _PLAIN
    }
    needed -= {"input_ids"}
    if needed or "input_ids" not in taken:
        return f"one that needs more than a text: {', '.join(sorted(needed)) or named}"
    return None


_PLAIN = inspect.Parameter.POSITIONAL_OR_KEYWORD


def taken_by(model: Any, **settings: Any) -> dict[str, Any]:
    """Return those that a model's forward pass takes: code that comes with a model may know fewer
    than transformers' own."""
    taken = inspect.signature(model.forward).parameters
    if any(one.kind is one.VAR_KEYWORD for one in taken.values()):
        return settings
    return {name: value for name, value in settings.items() if name in taken}


def read_config(model: ModelConfig) -> Any:
    """Return the model's configuration, of transformers."""
    return AutoConfig.from_pretrained(
        local_or_hub(model.name), revision=model.revision, trust_remote_code=model.trust_remote_code
    )


def on_meta(model: ModelConfig) -> Any:
    """Build the model on the meta device: all modules and shapes, no memory, and not quantised."""
    config = read_config(model)
    with torch.device("meta"):
        shapes = auto_class(config).from_config(config, trust_remote_code=model.trust_remote_code)
    if lacking := _GIVEN_BY_PEFT - taken_by(shapes, **dict.fromkeys(_GIVEN_BY_PEFT)).keys():
        raise ConfigError(
            f"base_model: the forward pass of a model must take what peft hands it, but that of "
            f"{model.name} takes no {', '.join(sorted(lacking))}. Add them, or **kwargs."
        )
    return shapes


_GIVEN_BY_PEFT = frozenset(
    "attention_mask inputs_embeds labels output_attentions output_hidden_states return_dict".split()
)
"""By `PeftModelForCausalLM.forward`, whatever it is called with."""


def carries_state(model: Any) -> bool:
    """Whether a layer is recurrent, a state-space model, a convolution or linear attention.

    Such a layer hands on what it has seen: where one row ends it cannot be told.
    """
    config = model.config.get_text_config()
    kinds = (
        kind
        for name in ("layer_types", "layers_block_type", "block_types")
        for kind in getattr(config, name, None) or ()
    )
    decoder = model.get_decoder() or model  # without the towers of images and sounds
    return (
        getattr(model, "_is_stateful", False)
        or any(kind.startswith("linear") or "attention" not in kind for kind in kinds)
        or any(isinstance(module, torch.nn.Conv1d) for module in decoder.modules())
    )
