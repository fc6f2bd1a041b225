"""Layers of peft on a frozen base: taken off after a trial, and put back for the next one."""

from typing import Any

import torch
from peft.tuners.lora import LoraLayer

from trials.config import TrialConfig
from trials.models.lora import ADAPTER, LEFT_ON_BASE, take_off_adapter


class SpareLayers:
    """The layers of an ended trial, off the base and without weights.

    They save what building them costs, a millisecond a layer in which a GPU waits: they go back
    on at any rank, alpha and dropout. Those of DoRA do not, which begin from the base's weights.
    """

    def __init__(self, model: torch.nn.Module, adapted: Any) -> None:
        """Take the adapter `adapted` (a peft model) off its base `model`."""
        self._model, self._adapted = model, adapted
        self._attributes = {name: vars(model)[name] for name in LEFT_ON_BASE if name in vars(model)}
        self._places = take_off_adapter(model)
        for _, _, layer in self._places:
            layer.lora_A[ADAPTER].weight = layer.lora_B[ADAPTER].weight = None

    @staticmethod
    def kind(config: TrialConfig) -> tuple[str, bool] | None:
        """What trials share whose layers serve each other; None: no other trial's will do."""
        if config.use_dora or config.experts:  # layers on experts lie on each other
            return None
        return config.target_modules, config.dropout > 0

    def put_on(self, config: TrialConfig) -> Any:
        """Return the adapted base; its layers have no weights before `draw_weights`."""
        for parent, name, layer in self._places:
            setattr(parent, name, layer)
            layer.r[ADAPTER] = config.rank
            layer.lora_alpha[ADAPTER] = config.alpha
            layer.use_rslora[ADAPTER] = config.use_rslora
            layer.set_scale(ADAPTER, 1)
            if config.dropout:
                layer.lora_dropout[ADAPTER].p = config.dropout
            for linear, shape in (
                (layer.lora_A[ADAPTER], (config.rank, layer.in_features)),
                (layer.lora_B[ADAPTER], (layer.out_features, config.rank)),
            ):
                linear.out_features, linear.in_features = shape
                weight = torch.empty(shape, device=layer.get_base_layer().weight.device)
                linear.weight = torch.nn.Parameter(weight)
        vars(self._model).update(self._attributes)
        about = self._adapted.peft_config[ADAPTER]
        about.r, about.lora_alpha = config.rank, config.alpha
        about.lora_dropout, about.use_rslora = config.dropout, config.use_rslora
        return self._adapted


def draw_weights(adapted: Any, seed: int) -> None:
    """Draw the A matrices and set the B matrices to zero, as peft does, with no other draws."""
    torch.manual_seed(seed)
    for layer in adapted.modules():
        if isinstance(layer, LoraLayer):
            layer.reset_lora_parameters(ADAPTER, init_lora_weights=True)
