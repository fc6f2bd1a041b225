"""Base and adapter in one call: peft's numbers, fewer launches, and peft's own layers elsewhere."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from tests.tiny import model_config, transformers_base
from trials.backends import transformers_qlora
from trials.backends.one_call import join_calls
from trials.backends.recomputing import recompute
from trials.backends.transformers_qlora import TransformersBase
from trials.config import ComputeDtype, EvalPoint, Quantization, TrialConfig
from trials.memory.micro_batches import MicroBatchMemory
from trials.training.train import run_trial

MakeConfig = Callable[..., TrialConfig]
BaseIn = Callable[[Quantization, ComputeDtype], TransformersBase]
IDS = torch.arange(4, 44).reshape(2, 20)
IN_16_BITS: list[tuple[Quantization, ComputeDtype]] = [
    ("none", "bfloat16"),
    ("nf4", "bfloat16"),
    ("none", "float16"),
    ("nf4", "float16"),
]


@pytest.fixture(scope="module")
def base_in(tiny_base: Path) -> BaseIn:
    """The tiny base in the given types, loaded once for all tests of this file."""
    model = model_config(tiny_base)

    @functools.cache
    def make(quantization: Quantization, dtype: ComputeDtype) -> TransformersBase:
        return transformers_base(replace(model, quantization=quantization, compute_dtype=dtype))

    return make


def trained(base: TransformersBase, config: TrialConfig) -> Any:
    """An adapter whose B is not zero, else A had no gradient."""
    adapted = base.add_adapter(config).train()
    if base.dtype is torch.float32:  # there peft's own are left in place
        assert not joined(adapted)
        join_calls(adapted)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return adapted


def layers(adapted: Any) -> list[Any]:
    return [module for module in adapted.modules() if isinstance(module, LoraLayer)]


def joined(adapted: Any) -> list[Any]:
    return [layer for layer in layers(adapted) if "forward" in vars(layer)]


def as_pefts(adapted: Any) -> None:
    for layer in joined(adapted):
        del layer.forward


def computed(base: TransformersBase, adapted: Any) -> list[torch.Tensor]:
    """Logits, and gradients of the embedded tokens and of each A and B."""
    adapted.zero_grad()
    embedded = base.model.get_input_embeddings()(IDS).requires_grad_()
    with base._autocast():
        logits = adapted(inputs_embeds=embedded).logits
    logits, targets = logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()
    loss = torch.nn.functional.cross_entropy(logits.float(), targets)
    torch.autograd.backward(loss * 2.0**10)  # as the scaler of float16 does
    found = [logits, embedded.grad, *(p.grad for p in adapted.parameters() if p.requires_grad)]
    assert len(found) == 2 + 2 * 14
    return [tensor.detach() for tensor in found if tensor is not None]


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_in_float32_the_numbers_are_pefts(
    config: MakeConfig, base_in: BaseIn, quantization: Quantization
) -> None:
    base = base_in(quantization, "float32")
    base._spare.clear()
    adapted = trained(base, config(rank=4, alpha=6.0))
    ours = computed(base, adapted)
    as_pefts(adapted)
    pefts = computed(base, adapted)
    base.remove_adapter()
    base._spare.clear()
    for mine, theirs in zip(ours, pefts, strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        assert (mine - theirs).norm() <= 1e-6 * theirs.norm()


@pytest.mark.parametrize("x_is_in_float32", [False, True])
@pytest.mark.parametrize(("quantization", "dtype"), IN_16_BITS)
def test_in_16_bits_a_layer_is_as_exact_as_pefts(
    config: MakeConfig,
    base_in: BaseIn,
    quantization: Quantization,
    dtype: ComputeDtype,
    x_is_in_float32: bool,
) -> None:
    base = base_in(quantization, dtype)
    layer = layers(trained(base, config(rank=4, alpha=6.0)))[-1]
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    x = torch.randn(2, 20, layer.in_features).to(base.dtype)
    dy = torch.randn(2, 20, layer.out_features).to(base.dtype)
    weight = layer.base_layer(torch.eye(layer.in_features, dtype=base.dtype)).double()

    def numbers(forward: Any, x: torch.Tensor, *weights: torch.Tensor) -> list[torch.Tensor]:
        y = forward(x)
        return [y.detach(), *torch.autograd.grad(y, [x, *weights], dy.to(y.dtype))]

    def in_autocast(forward: Any) -> list[torch.Tensor]:
        with base._autocast():
            given = x.float() if x_is_in_float32 else x.clone()
            return numbers(forward, given.requires_grad_(), a, b)

    wide = [weight.detach().double().requires_grad_() for weight in (a, b)]
    exact = numbers(
        lambda x: x @ weight + 1.5 * x @ wide[0].T @ wide[1].T, x.double().requires_grad_(), *wide
    )
    ours, pefts = in_autocast(layer), in_autocast(functools.partial(type(layer).forward, layer))
    base.remove_adapter()
    for mine, theirs, right in zip(ours, pefts, exact, strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        # A sum that is rounded once more, of two parts in float32, is √2 times as far.
        assert (mine - right).norm() <= 1.5 * (theirs - right).norm()


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(("quantization", "dtype"), [("nf4", "float32"), *IN_16_BITS])
def test_computed_again_the_numbers_are_the_same(
    config: MakeConfig,
    base_in: BaseIn,
    quantization: Quantization,
    dtype: ComputeDtype,
    reentrant: bool,
) -> None:
    base = base_in(quantization, dtype)
    base._spare.clear()
    adapted = trained(base, config(rank=4, alpha=6.0))
    assert len(joined(adapted)) == 14
    plain = computed(base, adapted)
    recompute(base.model, reentrant=reentrant)
    again = computed(base, adapted)
    base.remove_adapter()
    base._spare.clear()
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))


@pytest.mark.parametrize(
    ("quantization", "changes", "n_joined"),
    [
        ("nf4", {}, 14),
        ("none", {"target_modules": "qv"}, 4),
        ("nf4", {"dropout": 0.1}, 0),
        ("none", {"dropout": 0.1}, 0),
        ("nf4", {"use_dora": True}, 0),
        ("none", {"use_dora": True}, 0),
        ("int8", {}, 0),
    ],
    ids=str,
)
def test_only_plain_layers_are_joined(
    config: MakeConfig,
    base_in: BaseIn,
    quantization: Quantization,
    changes: dict[str, Any],
    n_joined: int,
) -> None:
    base = base_in(quantization, "bfloat16")
    base.add_adapter(config())
    base.remove_adapter()
    for _ in range(2):  # the second time with the layers of the first, where these are kept
        assert len(joined(base.add_adapter(config(**changes)))) == n_joined
        base.remove_adapter()


def test_a_base_layer_with_a_hook_stays_pefts(config: MakeConfig, base_in: BaseIn) -> None:
    base = base_in("none", "bfloat16")
    base._spare.clear()
    hooked = base.model.model.layers[0].mlp.up_proj
    handle = hooked.register_forward_hook(lambda *_: None)
    adapted = base.add_adapter(config())
    assert len(joined(adapted)) == 13
    handle.remove()
    base.remove_adapter()
    base._spare.clear()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_layer_takes_the_weights_of_now(
    config: MakeConfig, base_in: BaseIn, dtype: ComputeDtype
) -> None:
    base = base_in("none", dtype)
    base._spare.clear()
    adapted = trained(base, config())
    layer = layers(adapted)[0]
    with torch.no_grad(), base._autocast():
        adapted(input_ids=IDS)
        for weight in (layer.lora_B["default"].weight, layer.base_layer.weight):
            weight.data.mul_(2)  # which no version counts
        x = torch.randn(3, layer.in_features).to(base.dtype)
        pefts = type(layer).forward(layer, x)
        torch.testing.assert_close(layer(x), pefts, rtol=0.05, atol=0.01)
        with adapted.disable_adapter():
            assert torch.equal(layer(x), layer.base_layer(x))
    layer.base_layer.weight.data.div_(2)
    base.remove_adapter()


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_model_may_change_in_place_what_a_layer_with_a_bias_gives(
    config: MakeConfig, base_in: BaseIn, quantization: Quantization
) -> None:
    base = base_in(quantization, "bfloat16")
    layer = layers(trained(base, config()))[0]
    bias = torch.ones(layer.out_features, dtype=torch.bfloat16)
    layer.base_layer.bias = torch.nn.Parameter(bias, requires_grad=False)
    x = torch.randn(2, 20, layer.in_features, dtype=torch.bfloat16)
    with base._autocast():
        torch.autograd.backward(layer(x).mul_(2).sum())
    assert layer.lora_A["default"].weight.grad is not None
    layer.base_layer.bias = None
    base.remove_adapter()


def test_where_a_model_turns_autocast_off_the_weights_are_not_rounded(
    config: MakeConfig, base_in: BaseIn
) -> None:
    base = base_in("none", "float32")
    base._spare.clear()
    adapted = trained(base, config())
    layer = layers(adapted)[0]
    x = torch.randn(2, 20, layer.in_features)
    found = []

    def island(*_: Any) -> None:
        with torch.autocast("cpu", enabled=False):
            found.append(layer(x))

    handle = base.model.get_input_embeddings().register_forward_hook(island)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        adapted(input_ids=IDS)
        as_pefts(adapted)
        adapted(input_ids=IDS)
    handle.remove()
    base.remove_adapter()
    base._spare.clear()
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


def test_weights_are_dropped_when_a_pass_fails(config: MakeConfig, base_in: BaseIn) -> None:
    base = base_in("nf4", "bfloat16")
    adapted = base.add_adapter(config())
    [cast] = {
        id(layer.forward.args[2]): layer.forward.args[2] for layer in layers(adapted)
    }.values()
    with pytest.raises(IndexError), base._autocast():
        adapted(input_ids=torch.tensor([[10**6]]))
    assert not cast
    base.remove_adapter()


@pytest.mark.parametrize(("quantization", "dtype"), [("none", "bfloat16"), ("nf4", "bfloat16")])
def test_a_trial_has_the_losses_that_pefts_layers_give(
    config: MakeConfig,
    base_in: BaseIn,
    monkeypatch: pytest.MonkeyPatch,
    quantization: Quantization,
    dtype: ComputeDtype,
) -> None:
    base = base_in(quantization, dtype)

    def losses(number: int) -> list[float]:
        points: list[EvalPoint] = []
        trial = config(number, model=replace(config().model, quantization=quantization))
        Path(trial.output_dir).mkdir(parents=True)
        run_trial(trial, base, MicroBatchMemory(), points.append)
        return [point.eval_loss for point in points]

    base._spare.clear()
    ours = losses(0)
    base._spare.clear()
    monkeypatch.setattr(transformers_qlora, "join_calls", lambda adapted: None)
    pefts = losses(1)
    base._spare.clear()
    assert len(ours) > 1
    assert ours == pytest.approx(pefts, rel=3e-3)


class Launches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that compute or copy: what a GPU is told to do, one by one."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        returned = [found.alias_info for found in func._schema.returns]
        is_view = any(alias and not alias.is_write for alias in returned)
        if not is_view and name not in (
            "empty",
            "empty_like",
            "new_empty",
            "detach",
            "_unsafe_view",
        ):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def of_layers(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Any:
    """Bases with one and with two layers: what one more costs is a layer's."""

    def make(n_layers: int, quantization: Quantization, dtype: ComputeDtype) -> TransformersBase:
        folder = tmp_path_factory.mktemp(f"{n_layers}-layers")
        config = LlamaConfig.from_pretrained(tiny_base)
        config.num_hidden_layers = n_layers
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
        model = replace(model_config(folder), quantization=quantization, compute_dtype=dtype)
        return transformers_base(model)

    return make


def launches(base: TransformersBase, model: Any) -> tuple[Counter[str], Counter[str]]:
    """Those of a forward and of a backward pass."""
    embedded = base.model.get_input_embeddings()(IDS).requires_grad_()
    with Launches() as forward, base._autocast():
        loss = model(inputs_embeds=embedded, use_cache=False).logits.float().sum()
    with Launches() as backward:
        torch.autograd.backward(loss)
    return forward.counts, backward.counts


@pytest.mark.parametrize(
    ("quantization", "dtype", "forward", "backward"),
    [
        # A linear's two products forward, four backward: no arithmetic has fewer.
        ("nf4", "bfloat16", (7 * 7, 7 * 2), (7 * 8, 7 * 4)),
        ("none", "bfloat16", (7 * 6, 7 * 2), (7 * 8, 7 * 4)),
    ],
)
def test_an_adapter_costs_less_than_half_the_launches_of_pefts(
    config: MakeConfig,
    of_layers: Any,
    quantization: Quantization,
    dtype: ComputeDtype,
    forward: tuple[int, int],
    backward: tuple[int, int],
) -> None:
    def of_a_layer() -> Iterator[tuple[int, int]]:
        counted = []
        for n_layers in (1, 2):
            base = of_layers(n_layers, quantization, dtype)
            alone = launches(base, base.model)
            adapted = base.add_adapter(config())
            ours = launches(base, adapted)
            as_pefts(adapted)
            adapted.zero_grad()
            counted.append((alone, launches(base, adapted), ours))
        for direction in (0, 1):
            alone, pefts, ours = (
                two[direction] - one[direction] for one, two in zip(*counted, strict=True)
            )
            # On a CPU autograd casts the gradients; on a GPU the product is in float32 already.
            casts = ours["_to_copy"] - alone["_to_copy"]
            yield pefts.total() - alone.total(), ours.total() - alone.total() - casts

    assert tuple(of_a_layer()) == (forward, backward)
