"""Layers that go from trial to trial make the adapter that new ones make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import model_config, transformers_base
from trials.backends.transformers_qlora import TransformersBase
from trials.config import TrialConfig

MakeConfig = Callable[..., TrialConfig]
TOKENS = torch.arange(4, 44).reshape(2, 20)


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> TransformersBase:
    return transformers_base(model_config(tiny_base))


def layers(base: TransformersBase) -> list[int]:
    return [id(m) for m in base._adapted.modules() if hasattr(m, "lora_A")]


def described(base: TransformersBase, config: TrialConfig) -> tuple[Any, ...]:
    """All that a trial sees of a new adapter, with B as if it had been trained."""
    model = base.add_adapter(config).train()
    drawn = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    torch.manual_seed(1)  # of the dropout
    about = {**asdict(model.peft_config["default"]), "target_modules": None}
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=TOKENS).logits.detach()
    return drawn, about, str(model), logits


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rank": 2},
        {"rank": 16, "alpha": 3.0},
        {"use_rslora": True, "rank": 16},
        {"dropout": 0.5},
        {"target_modules": "qv"},
        {"seed": 7},
    ],
    ids=str,
)
def test_layers_put_back_make_the_adapter_that_new_ones_make(
    config: MakeConfig, base: TransformersBase, changes: dict[str, Any]
) -> None:
    wanted = config(**changes)
    base._spare.clear()
    expected = described(base, wanted)
    base.remove_adapter()

    base._spare.clear()
    same_kind = {"target_modules": wanted.target_modules, "dropout": 0.1 if wanted.dropout else 0.0}
    base.add_adapter(config(rank=8, **same_kind))
    before = layers(base)
    base.remove_adapter()
    found = described(base, wanted)
    assert layers(base) == before  # else this test has shown nothing
    base.remove_adapter()

    assert found[0].keys() == expected[0].keys()
    assert all(torch.equal(found[0][name], expected[0][name]) for name in expected[0])
    assert found[1:3] == expected[1:3]
    assert torch.equal(found[3], expected[3])


def test_layers_off_the_base_hold_no_weights(config: MakeConfig, base: TransformersBase) -> None:
    base.add_adapter(config())
    base.remove_adapter()
    [spare] = [base._spare[kind] for kind in base._spare if kind == ("all-linear", False)]
    assert spare._places
    for _, _, layer in spare._places:
        owned = {id(p) for p in layer.parameters()} - {
            id(p) for p in layer.get_base_layer().parameters()
        }
        assert not owned


def test_dora_is_always_built_anew(config: MakeConfig, base: TransformersBase) -> None:
    base._spare.clear()
    base.add_adapter(config(use_dora=True))
    base.remove_adapter()
    assert not base._spare
