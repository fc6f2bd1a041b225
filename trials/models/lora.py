"""A LoRA adapter in the words of peft: how it is put on a model, and how plain peft reads it."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Collection, Iterator
from typing import Any

from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import transformers_weight_conversion as conversion
from peft.utils.other import AuxiliaryTrainingWrapper
from transformers import AutoModelForCausalLM

from trials.config import TrialConfig
from trials.models.shapes import auto_class
from trials.models.target_modules import Targets

ADAPTER = "default"
"""Its name, where peft could have several on one base."""


LEFT_ON_BASE = ("peft_config", "_hf_peft_config_loaded")
"""What peft writes onto a base model."""


def lora_settings(config: TrialConfig, targets: Targets) -> dict[str, Any]:
    """A trial's adapter in the words of peft."""
    return {
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
        "target_modules": list(targets.modules),
        "target_parameters": list(targets.parameters) or None,
        "bias": "none",
    }


def put_on(model: Any, settings: dict[str, Any], *, is_empty: bool = False) -> Any:
    """Return a peft model: `model` with a new adapter on exactly the modules that are named.

    Args:
        is_empty: Whether its weights are to be on the meta device.
    """
    lora = LoraConfig(**settings, **_task(model))
    with _names_as_they_are(), warnings.catch_warnings():
        # That GPT-2's layers are Conv1D: it sees it itself, and does what they need.
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False")
        return get_peft_model(model, lora, low_cpu_mem_usage=is_empty)


def _task(model: Any) -> dict[str, Any]:
    """What peft notes of the base: of a wrapper its class, as peft does of one with no task."""
    auto = auto_class(model.config)
    if auto is AutoModelForCausalLM:
        return {"task_type": "CAUSAL_LM"}
    is_known = type(model).__module__.startswith("transformers.")
    kind = type(model) if is_known else auto  # code of its own is found through the latter
    noted = {"base_model_class": kind.__name__, "parent_library": kind.__module__}
    return {"auto_mapping": noted}


@contextlib.contextmanager
def _names_as_they_are() -> Iterator[None]:
    """Keep peft from reading names as those of transformers 4.

    On a model with routed experts peft 0.21 takes every `gate_proj`, `up_proj` and `down_proj` for
    an expert's, also those of dense layers and shared experts (huggingface/peft issue 3711).
    """
    own = conversion.convert_peft_config_for_transformers
    vars(conversion)[own.__name__] = lambda *args, **kwargs: None
    try:
        yield
    finally:
        vars(conversion)[own.__name__] = own


def as_saved(adapted: Any) -> LoraConfig:
    """Return the configuration that makes plain peft put the adapter where it is on `adapted`.

    Names that peft would take for those of routed experts are told as their weights, with the
    same keys and values: it puts the same layers on quantised weights, and computes base + B A of
    plain ones, which needs a dropout of 0. Only training has one.
    """
    about = copy.copy(adapted.peft_config[ADAPTER])
    base = adapted.get_base_model()
    modules = dict(base.named_modules())
    names = [name for name, module in modules.items() if _is_adapted(module)]
    misread = misread_names(base, names)
    rest = [name for name in names if name not in misread]
    about.inference_mode = True
    about.target_modules = set(shortest(rest, modules)) if rest else set()
    if misread:
        about.target_parameters = [
            *(about.target_parameters or ()),
            *(f"{name}.weight" for name in misread),
        ]
        about.lora_dropout = 0.0
    return about


def adapted_names(model: Any) -> Iterator[str]:
    """The modules and experts' weights that peft has put something on, by full name."""
    for name, module in model.named_modules():
        if isinstance(module, ParamWrapper):
            # Several weights of one module: wrappers one around the other.
            yield f"{name.replace('.base_layer', '')}.{module.parameter_name}"
        elif isinstance(module, LoraLayer | AuxiliaryTrainingWrapper):
            yield name


def _is_adapted(module: Any) -> bool:
    return isinstance(module, LoraLayer) and not isinstance(module, ParamWrapper)


def misread_names(model: Any, names: Collection[str]) -> list[str]:
    """Return the modules that plain peft, given these names, would not put an adapter on."""

    def kept(asked: Collection[str]) -> Collection[str]:
        probe = LoraConfig(target_modules=list(asked))
        conversion.convert_peft_config_for_transformers(probe, model=model, conversions=None)
        return set(probe.target_modules or ())

    try:
        found = kept(names)
    except ValueError:  # a part of what it would take for experts': AFMoE's gates of attention
        found = kept([name for name in names if name.rpartition(".")[2] not in _EXPERTS_NAMES])
    return [name for name in names if name not in found]


_EXPERTS_NAMES = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")
"""As transformers 4 had them, and a router's."""


def shortest(names: Collection[str], modules: Collection[str]) -> list[str]:
    """Return the last parts of the names, where these match no other module; else the names.

    Args:
        modules: All modules of the model.
    """
    leaves = sorted({name.rpartition(".")[2] for name in names})
    matched = [name for name in modules if name.rpartition(".")[2] in leaves]
    return leaves if sorted(matched) == sorted(names) else list(names)


def trained_parameters(adapted: Any) -> int:
    """Count the parameters of the adapter on `adapted`."""
    return sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def take_off_adapter(model: Any) -> list[tuple[Any, str, Any]]:
    """Put a base model's own layers back in place, and delete what peft has written onto it.

    As peft's `unload` does, which takes ten times as long and leaves some of it.

    Returns:
        The layers taken off, each with the module it was in and its name there.
    """
    places = [
        (parent, name, layer)
        for parent in list(model.modules())
        for name, layer in parent.named_children()
        if isinstance(layer, BaseTunerLayer)
    ]
    for parent, name, layer in places:
        setattr(parent, name, layer.get_base_layer())
    for left_over in LEFT_ON_BASE:
        vars(model).pop(left_over, None)
    return places
