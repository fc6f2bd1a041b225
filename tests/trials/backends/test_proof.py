"""What a trial leaves on a frozen base is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bitsandbytes as bnb
import pytest
import torch

from trials.backends import proof
from trials.backends.proof import MEMORY_SLACK, Proof, content_hash
from trials.models.frozen_base import BaseNotClean


class Model(torch.nn.Module):
    """An embedding large enough for two blocks of a hash, a linear layer, and buffers."""

    kept: torch.Tensor
    computed: torch.Tensor

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        chance = torch.Generator().manual_seed(0)
        self.embedding = torch.nn.Embedding(1000, 160)  # 640,000 bytes: two blocks and a rest
        self.linear = torch.nn.Linear(7, 5)
        self.register_buffer("kept", torch.arange(3))
        self.register_buffer("computed", torch.arange(3), persistent=False)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=chance))
        self.requires_grad_(False).to(device)


@pytest.fixture
def model() -> Model:
    return Model()


def flip(tensor: torch.Tensor, index: int, bit: int = 0) -> None:
    """Flip one bit of a tensor's bytes."""
    tensor.detach().reshape(-1).view(torch.uint8)[index] ^= 1 << bit


def test_equal_models_have_equal_hashes() -> None:
    assert content_hash(Model()) == content_hash(Model())


@pytest.mark.parametrize("bit", [0, 7])
@pytest.mark.parametrize("byte", [0, 3, 300_000, 639_999])
def test_one_flipped_bit_changes_the_hash(model: Model, byte: int, bit: int) -> None:
    before = content_hash(model)
    flip(model.embedding.weight, byte, bit)
    assert content_hash(model) != before


def test_the_sign_of_two_weights_changes_the_hash(model: Model) -> None:
    before = content_hash(model)
    flip(model.embedding.weight, 7, 7)  # the highest bit of a word of 64: a plain sum of products
    flip(model.embedding.weight, 15, 7)  # with odd keys would not see these two together
    assert content_hash(model) != before


@pytest.mark.parametrize(("one", "other"), [(0, 1), (0, 2), (1, 70_000), (5, 140_000)])
def test_two_swapped_weights_change_the_hash(model: Model, one: int, other: int) -> None:
    before = content_hash(model)
    weights = model.embedding.weight.view(-1)
    weights[[one, other]] = weights[[other, one]]
    assert content_hash(model) != before


def test_names_shapes_and_types_count(model: Model) -> None:
    hashes = {content_hash(model)}
    model.linear.weight = torch.nn.Parameter(model.linear.weight.T, requires_grad=False)
    hashes.add(content_hash(model))
    model.linear.weight = torch.nn.Parameter(
        model.linear.weight.view(torch.int32), requires_grad=False
    )
    hashes.add(content_hash(model))
    model.register_buffer("also_kept", model.kept)
    del model.kept
    hashes.add(content_hash(model))
    assert len(hashes) == 4


def test_persistent_buffers_count_and_others_do_not(model: Model) -> None:
    before = content_hash(model)
    model.computed += 1
    assert content_hash(model) == before
    model.kept += 1
    assert content_hash(model) != before


def test_the_hash_does_not_depend_on_how_many_blocks_are_hashed_at_once(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_by_one = content_hash(model)
    monkeypatch.setitem(proof._BLOCKS_AT_ONCE, "cpu", 128)  # as on a GPU
    assert content_hash(model) == one_by_one


def test_the_hash_is_what_its_docstring_says() -> None:
    data = torch.tensor([0x0123_4567_89AB_CDEF, -5, 2**62 + 3], dtype=torch.int64)
    of_word, of_high = (keys[:3].tolist() for keys in proof._keys(proof._BLOCK, data.device))
    expected = 0
    for word, k, k_high in zip(data.tolist(), of_word, of_high, strict=True):
        low, high = word & 0xFFFF_FFFF, word >> 32
        expected += k * low + (k_high + (k << 32)) * high  # two keys, as random as k and k_high
    assert int(proof._keyed_sums(data[None])) % 2**64 == expected % 2**64


def four_bits() -> Any:
    return bnb.nn.Linear4bit(128, 256, quant_type="nf4", compress_statistics=True)


def eight_bits() -> Any:
    return bnb.nn.Linear8bitLt(64, 32, bias=False, has_fp16_weights=False)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (four_bits, lambda layer: layer.weight.data),
        (four_bits, lambda layer: layer.weight.quant_state.absmax),
        (four_bits, lambda layer: layer.weight.quant_state.code),
        (four_bits, lambda layer: layer.weight.quant_state.offset),
        (four_bits, lambda layer: layer.weight.quant_state.state2.absmax),
        (four_bits, lambda layer: layer.weight.quant_state.state2.code),
        (eight_bits, lambda layer: layer.weight.data),
        (eight_bits, lambda layer: layer.weight.SCB),
    ],
)
def test_the_quantisation_state_counts(
    make: Callable[[], Any], part: Callable[[Any], torch.Tensor]
) -> None:
    layer = make().to("cpu")
    before = content_hash(layer)
    flip(part(layer), 0)
    assert content_hash(layer) != before


def test_a_pass_in_8_bits_leaves_the_hash(model: Model) -> None:
    layer = eight_bits().to("cpu")
    before = content_hash(layer)
    layer(torch.ones(2, 64, dtype=torch.float16))  # moves the scales from the weight elsewhere
    assert layer.weight.SCB is None
    assert content_hash(layer) == before
    flip(layer.state.SCB, 0)
    assert content_hash(layer) != before


def test_a_clean_base_passes_and_stays_as_it_is(model: Model) -> None:
    before = content_hash(model)
    Proof(model).check(model)
    assert content_hash(model) == before


def add_a_module(model: Model) -> None:
    model.linear.adapter = torch.nn.Linear(1, 1)


def make_trainable(model: Model) -> None:
    model.linear.weight.requires_grad_(True)


def leave_a_gradient(model: Model) -> None:
    model.linear.weight.grad = torch.zeros_like(model.linear.weight)


def replace_forward(model: Model) -> None:
    model.linear.forward = lambda x: x  # type: ignore[assignment,method-assign]


def change_a_weight(model: Model) -> None:
    flip(model.linear.bias, 0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (add_a_module, "modules differ from the loaded base model's: \\['linear.adapter'\\]"),
        (make_trainable, "a parameter is still trainable: linear.weight"),
        (leave_a_gradient, "a parameter still has a gradient: linear.weight"),
        (replace_forward, "the forward method of linear is still replaced"),
        (change_a_weight, "frozen weights have changed"),
    ],
)
def test_what_is_left_is_named(model: Model, spoil: Callable[[Model], None], message: str) -> None:
    loaded = Proof(model)
    spoil(model)
    with pytest.raises(BaseNotClean, match=message):
        loaded.check(model)


@pytest.mark.parametrize(
    "register",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
        "register_state_dict_post_hook",
    ],
)
def test_a_hook_of_any_kind_is_found_until_it_is_removed(model: Model, register: str) -> None:
    loaded = Proof(model)
    handle = getattr(model.embedding, register)(lambda *_: None)
    with pytest.raises(BaseNotClean, match="1 hooks are left on embedding"):
        loaded.check(model)
    handle.remove()
    loaded.check(model)


def test_a_hook_that_came_with_the_model_may_stay_and_no_other(model: Model) -> None:
    model.register_forward_hook(lambda *_: None)
    loaded = Proof(model)
    loaded.check(model)
    model.register_forward_hook(lambda *_: None)
    with pytest.raises(BaseNotClean, match="1 hooks are left on the model itself"):
        loaded.check(model)


def test_held_device_memory_is_found(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    held = iter([2**30, 2**30 + MEMORY_SLACK, 2**30 + MEMORY_SLACK + 2**20])
    monkeypatch.setattr(proof, "_allocated_bytes", lambda: next(held))
    loaded = Proof(model)
    loaded.check(model)  # what a first pass has taken stays
    loaded.check(model)
    with pytest.raises(BaseNotClean, match="65 MiB more of device memory held than before"):
        loaded.check(model)


def test_memory_that_rises_three_times_in_a_row_is_a_leak_however_small(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    mib = 2**20
    held = iter([mib * n for n in (100, 101, 102, 102, 103, 104, 105)])
    monkeypatch.setattr(proof, "_allocated_bytes", lambda: next(held))
    loaded = Proof(model)
    for _ in range(6):
        loaded.check(model)
    with pytest.raises(BaseNotClean, match=r"risen with each of 3 trials, to 5\.0 MiB more"):
        loaded.check(model)


def test_a_parameter_that_was_put_back_is_the_same_wherever_it_stands(model: Model) -> None:
    """peft takes the weights of experts off and puts them back behind their biases."""
    before = content_hash(model)
    weight = model.linear._parameters.pop("weight")
    model.linear.register_parameter("weight", weight)
    assert content_hash(model) == before
