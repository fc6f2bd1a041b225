"""Which weights an adapter is on, as it stands on its base."""

from collections.abc import Collection, Iterator

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from peft.utils.other import AuxiliaryTrainingWrapper

from trials.config import ConfigError

N_NAMED = 3


def check_adapted(model: torch.nn.Module, wanted: Collection[str]) -> None:
    """See that an adapter is on what it was asked for, and nothing else is trained.

    Args:
        model: The base model with peft's layers in place.
        wanted: Names of its modules, and of experts' weights.

    Raises:
        ConfigError: With what is missing or beyond that.
    """
    found = set(_adapted(model))
    missing, beyond = sorted(set(wanted) - found), sorted(found - set(wanted))
    wrong = [f"without {_some(missing)}"] if missing else []
    wrong += [f"with {_some(beyond)}"] if beyond else []
    if wrong:
        raise ConfigError(
            f"target_modules: the adapter must be on the modules that were asked for, but is made "
            f"{' and '.join(wrong)}; write backend: transformers."
        )


def _adapted(model: torch.nn.Module) -> Iterator[str]:
    for name, module in model.named_modules():
        if isinstance(module, ParamWrapper):
            # Several weights of one module: wrappers one around the other.
            yield f"{name.replace('.base_layer', '')}.{module.parameter_name}"
        elif isinstance(module, LoraLayer | AuxiliaryTrainingWrapper):
            yield name


def _some(names: list[str]) -> str:
    more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
    return f"{', '.join(names[:N_NAMED])}{more}"
