"""Which weights an adapter is on, as it stands on its base."""

from collections.abc import Collection

import torch

from trials.config import ConfigError
from trials.models.lora import adapted_names

N_NAMED = 3


def check_adapted(model: torch.nn.Module, wanted: Collection[str]) -> None:
    """See that an adapter is on what it was asked for, and nothing else is trained.

    Args:
        model: The base model with peft's layers in place.
        wanted: Names of its modules, and of experts' weights.

    Raises:
        ConfigError: With what is missing or beyond that.
    """
    found = set(adapted_names(model))
    missing, beyond = sorted(set(wanted) - found), sorted(found - set(wanted))
    wrong = [f"without {_some(missing)}"] if missing else []
    wrong += [f"with {_some(beyond)}"] if beyond else []
    if wrong:
        raise ConfigError(
            f"target_modules: the adapter must be on the modules that were asked for, but is made "
            f"{' and '.join(wrong)}; write backend: transformers."
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
    return f"{', '.join(names[:N_NAMED])}{more}"
