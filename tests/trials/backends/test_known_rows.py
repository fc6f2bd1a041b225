"""What transformers need not ask the device about rows."""

from __future__ import annotations

import collections
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from tests.zoo.architectures import tiny_config
from trials.backends.known_rows import rows_known
from trials.backends.packing import Layout, packed, padded
from trials.backends.transformers_qlora import TransformersBase
from trials.data.batches import collate

WAITING = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "_unique2")
"""Operators that wait for what the device has computed."""


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what waits for the device, and copies to another."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(
        self, operator: Any, _: Any, arguments: Any = (), settings: Any = None
    ) -> Any:
        name = operator.overloadpacket.__name__
        found = operator(*arguments, **(settings or {}))
        is_moved = name in ("_to_copy", "copy_") and any(
            isinstance(given, torch.Tensor) and given.device != found.device for given in arguments
        )
        if name in WAITING or is_moved:
            self.seen[name] += 1
        return found


def tiny(name: str) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(name), dtype=torch.float32)
    return model.eval().requires_grad_(False)


def layouts() -> list[Layout]:
    """Rows beyond the tiny models' windows of 16 tokens."""
    chance = torch.Generator().manual_seed(1)
    rows = [torch.randint(3, 80, (n,), generator=chance) for n in (31, 7, 25)]
    batch = collate([{"input_ids": row, "labels": row} for row in rows])
    return [packed(batch, name_bounds=False), padded(batch)]


@torch.no_grad()
def waits(base: TransformersBase, layout: Layout) -> dict[str, int]:
    with Waits() as found:
        base._logits(base.model, layout)
    return dict(found.seen)


# One mask, one and a window's, two of eager attention, two of a tower's model.
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3_text", "gpt_oss", "qwen3_moe"])
def test_a_forward_pass_never_waits_for_the_device(name: str) -> None:
    base = TransformersBase(tiny(name), torch.device("cpu"), torch.float32)
    assert base._rows_stay_apart
    assert [waits(base, layout) for layout in layouts()] == [{}, {}]
    base._carries_state = True  # transformers is left to look itself
    if name != "gpt_oss":  # its own code gives no positions to look at
        assert all(waits(base, layout) for layout in layouts())


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3_text", "gpt_neo", "qwen3_moe"])
@torch.no_grad()
def test_what_is_known_gives_the_masks_that_transformers_makes(name: str) -> None:
    model = tiny(name)
    for layout in layouts():
        own = model(**layout.inputs, use_cache=False).logits
        with rows_known(dict(layout.inputs)) as inputs:
            assert torch.equal(model(**inputs, use_cache=False).logits, own)


@torch.no_grad()
def test_outside_of_a_pass_of_ours_masks_are_transformers_own() -> None:
    model, (_, side_by_side) = tiny("llama"), layouts()
    ids = side_by_side.inputs["input_ids"]
    mask = torch.ones_like(ids)
    mask[:, :5] = 0
    with_padding = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 5:]
    positions = torch.arange(5, ids.shape[1]).expand(len(ids), -1)
    alone = model(input_ids=ids[:, 5:], position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(with_padding, alone, rtol=1e-4, atol=1e-4)
