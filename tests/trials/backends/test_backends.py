"""How a frozen base runs: rows packed or padded, exact in float32, activations computed again."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    Gemma4TextConfig,
    MambaConfig,
    PreTrainedConfig,
)

from tests.tiny import model_config, transformers_base
from trials.backends import packing, proof
from trials.backends.attention import switch_attention
from trials.backends.first_pass import first_pass
from trials.backends.loading import compute_dtype
from trials.backends.packing import LONGEST_PACKED, ForwardCost, packed, padded
from trials.backends.recomputing import recompute, reentrant_is_right
from trials.backends.transformers_qlora import TransformersBase
from trials.config import ComputeDtype, ModelConfig, Quantization, TrialConfig
from trials.data.batches import collate
from trials.data.tokens import IGNORED, TokenRows
from trials.memory.one_step import _Held

MakeConfig = Callable[..., TrialConfig]


BaseIn = Callable[[Quantization, ComputeDtype], TransformersBase]


@pytest.fixture(scope="module")
def base_in(tiny_base: Path) -> BaseIn:
    """The tiny base in the given types, loaded once for all tests of this file."""
    model = model_config(tiny_base)

    @functools.cache
    def make(quantization: Quantization, dtype: ComputeDtype) -> TransformersBase:
        return transformers_base(replace(model, quantization=quantization, compute_dtype=dtype))

    return make


@pytest.fixture
def model(tiny_base: Path) -> ModelConfig:
    return model_config(tiny_base)


@pytest.fixture
def exact(base_in: BaseIn) -> TransformersBase:
    """The base in 32 bits throughout."""
    return base_in("none", "float32")


@pytest.fixture
def batch(tiny_data: Path) -> dict[str, torch.Tensor]:
    """Six rows of unequal lengths."""
    rows = TokenRows(tiny_data / "sample", 64)
    return collate(
        [{name: t[:n] for name, t in rows[i].items()} for i, n in enumerate((15, 7, 12, 5, 9, 6))]
    )


@torch.no_grad()
def nll(base: TransformersBase, layout: packing.Layout) -> float:
    return float(summed(base, base.model, layout))


def summed(base: TransformersBase, model: Any, layout: packing.Layout) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(*base._logits(model, layout), reduction="sum")


def gradients(base: TransformersBase, model: Any, layout: packing.Layout) -> list[torch.Tensor]:
    model.zero_grad()
    torch.autograd.backward(summed(base, model, layout))
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    assert found
    return found


def with_trained_adapter(base: TransformersBase, config: TrialConfig) -> Any:
    """B is zero in a new adapter, and then A has no gradient."""
    torch.manual_seed(0)
    model = base.add_adapter(config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def test_no_row_predicts_the_row_after_it() -> None:
    rows = [[11, 12, 13], [21, 22]]
    layout = packed(collate([{"input_ids": r, "labels": r} for r in rows]), name_bounds=True)
    assert layout.inputs["input_ids"].tolist() == [[11, 12, 13, 21, 22]]
    assert layout.inputs["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert layout.predicting.tolist() == [0, 1, 3]
    assert layout.targets.tolist() == [12, 13, 22]
    assert layout.inputs["cu_seq_lens_q"].tolist() == [0, 3, 5]
    assert layout.inputs["max_length_q"] == 3


def test_logits_are_made_only_where_something_is_predicted() -> None:
    rows = [[11, 12, 13, 14], [21, 22, 23]]
    labels = [[IGNORED, IGNORED, 13, 14], [IGNORED, IGNORED, 23]]
    batch = collate([{"input_ids": r, "labels": t} for r, t in zip(rows, labels, strict=True)])
    side_by_side, end_to_end = padded(batch), packed(batch, name_bounds=False)
    assert side_by_side.predicting.tolist() == [1, 2]
    assert side_by_side.kept.tolist() == [0, 1, 2]  # of (row, position): the padding is left out
    assert end_to_end.predicting.tolist() == [1, 2, 5]
    assert side_by_side.targets.tolist() == end_to_end.targets.tolist() == [13, 14, 23]


@pytest.mark.parametrize(
    ("quantization", "dtype", "tolerance"),
    [("none", "float32", 1e-5), ("nf4", "float32", 1e-5), ("nf4", "auto", 1e-2)],
)
def test_packed_rows_have_the_loss_of_padded_ones(
    base_in: BaseIn,
    batch: dict[str, torch.Tensor],
    quantization: Quantization,
    dtype: ComputeDtype,
    tolerance: float,
) -> None:
    base = base_in(quantization, dtype)
    end_to_end = nll(base, packed(batch, name_bounds=False))
    assert end_to_end == pytest.approx(nll(base, padded(batch)), rel=tolerance)


def test_rows_in_a_batch_have_the_loss_that_they_have_alone(
    exact: TransformersBase, batch: dict[str, torch.Tensor]
) -> None:
    lengths = batch["attention_mask"].sum(dim=1)
    alone = sum(
        nll(exact, padded({name: t[i : i + 1, : lengths[i]] for name, t in batch.items()}))
        for i in range(len(lengths))
    )
    assert nll(exact, padded(batch)) == pytest.approx(alone, rel=1e-6)


def test_packed_rows_have_the_gradients_of_padded_ones(
    config: MakeConfig, exact: TransformersBase, batch: dict[str, torch.Tensor]
) -> None:
    model = with_trained_adapter(exact, config())
    side_by_side = gradients(exact, model, padded(batch))
    end_to_end = gradients(exact, model, packed(batch, name_bounds=False))
    exact.remove_adapter()
    for one, other in zip(side_by_side, end_to_end, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(one.abs().max()))


def test_a_model_that_mixes_up_packed_rows_gets_them_padded(
    exact: TransformersBase, batch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_long_row(batch: packing.Batch) -> packing.Layout:
        layout = packed(batch, name_bounds=False)
        ids = layout.inputs["input_ids"]
        positions = torch.arange(ids.shape[1])[None]
        return replace(layout, inputs={"input_ids": ids, "position_ids": positions})

    assert exact._tells_rows_apart()
    monkeypatch.setattr(exact, "_packed", one_long_row)
    assert not exact._tells_rows_apart()
    monkeypatch.setattr(exact, "_rows_stay_apart", False)
    assert not exact._packs(batch)


@pytest.mark.parametrize(
    ("lengths", "cheaper"),
    [
        ([128] * 8, False),  # nothing to save
        ([250, 60, 50, 50, 40, 40, 30, 30], True),
        ([400, 390, 380, 370, 360, 350, 340, 330], False),  # the mask costs more than the padding
        ([LONGEST_PACKED, 1], False),
    ],
)
def test_rows_are_packed_where_that_costs_less(lengths: list[int], cheaper: bool) -> None:
    smollm2 = ForwardCost(
        linear_weights=106_168_320, attention_width=30 * 576, attention_slowness=1.0
    )
    batch = collate([{"input_ids": [0] * n, "labels": [0] * n} for n in lengths])
    assert smollm2.packing_is_cheaper(batch["attention_mask"]) is cheaper


def test_the_cost_of_a_pass_is_read_off_the_model(exact: TransformersBase) -> None:
    # Two layers: q and o 64 × 64, k and v 64 × 32, gate, up and down 64 × 192.
    assert ForwardCost.of(exact.model) == ForwardCost(
        linear_weights=2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 192),
        attention_width=2 * 64,
        attention_slowness=3.0,
    )


SMALL = {"hidden_size": 64, "num_hidden_layers": 2}
TWO_KINDS = ["sliding_attention", "full_attention"]


@pytest.mark.parametrize(
    ("config", "width"),
    [
        # Some heads are wider than others.
        (Gemma4TextConfig(**SMALL, layer_types=TWO_KINDS, num_attention_heads=4), 4 * (256 + 512)),
        (MambaConfig(**SMALL), 2 * 64),  # no heads
    ],
    ids=["gemma4", "mamba"],
)
def test_an_odd_configuration_has_a_cost_too(config: PreTrainedConfig, width: int) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert ForwardCost.of(model).attention_width == width


def test_heads_that_a_configuration_lists_are_taken_to_be_as_wide_as_the_embedding(
    exact: TransformersBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(exact.model.config), "num_attention_heads", [2, 4])
    assert ForwardCost.of(exact.model).attention_width == 2 * 64


def test_float32_is_exact(exact: TransformersBase, batch: dict[str, torch.Tensor]) -> None:
    model = exact.model.double()
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[
            :, :-1
        ]
    exact.model.float()
    targets = batch["labels"][:, 1:]
    by_hand = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="sum"
    )
    with torch.no_grad():
        ours = exact.nll_sum(exact.model, batch)
    assert (exact.dtype, ours.dtype) == (torch.float32, torch.float32)
    assert float(ours) == pytest.approx(float(by_hand), rel=1e-6)


def test_activations_are_computed_again_from_the_middle_of_a_training_on(
    config: MakeConfig, exact: TransformersBase, batch: dict[str, torch.Tensor]
) -> None:
    model = with_trained_adapter(exact, config())
    model.train()
    passes: list[int] = []
    handle = exact.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: passes.append(1))
    kept = gradients(exact, model, padded(batch))
    assert len(passes) == 1
    exact.recompute_activations()
    recomputed = gradients(exact, model, padded(batch))
    assert len(passes) == 3
    handle.remove()
    exact.remove_adapter()
    assert all(torch.equal(k, r) for k, r in zip(kept, recomputed, strict=True))
    assert not exact.model.is_gradient_checkpointing


def test_8_bits_are_computed_again_with_the_same_gradients_in_far_less_memory(
    config: MakeConfig, base_in: BaseIn, batch: dict[str, torch.Tensor]
) -> None:
    """Half of what a layer keeps would stay in the other kind of checkpointing."""
    base = base_in("int8", "auto")
    model = with_trained_adapter(base, config())
    model.train()
    kept, held = gradients(base, model, padded(batch)), kept_bytes(base, model, batch)
    recompute(base.model, reentrant=False)
    held_by_the_other = kept_bytes(base, model, batch)
    base.recompute_activations()
    again, held_again = gradients(base, model, padded(batch)), kept_bytes(base, model, batch)
    base.remove_adapter()  # clean
    assert all(torch.equal(k, a) for k, a in zip(kept, again, strict=True))
    assert held_again < 0.5 * held_by_the_other < 0.5 * held


def kept_bytes(base: TransformersBase, model: Any, batch: dict[str, torch.Tensor]) -> int:
    """What a forward pass through the decoder layers keeps for the backward pass."""
    held = _Held([*model.parameters(), *model.buffers()], at_most=100_000)
    with held, base._autocast():
        output = base.model.model(input_ids=batch["input_ids"], use_cache=False)
    found = held._now
    del output
    return found


def test_where_reentrant_checkpointing_loses_gradients_it_is_not_used(
    config: MakeConfig, base_in: BaseIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_in("int8", "auto")
    model = with_trained_adapter(base, config())
    first, second = base.model.model.layers[:2]
    given: list[torch.Tensor] = []  # from layer to layer, past its output
    monkeypatch.setattr(first.mlp, "forward", _giving(first.mlp.forward, given))
    monkeypatch.setattr(second.mlp, "forward", _taking(second.mlp.forward, given))
    assert not reentrant_is_right(base.model, model, base.nll_sum)
    monkeypatch.undo()
    assert reentrant_is_right(base.model, model, base.nll_sum)
    base.remove_adapter()


def _giving(forward: Any, given: list[torch.Tensor]) -> Any:
    def call(x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = forward(x)
        given[:] = [found]
        return found

    return call


def _taking(forward: Any, given: list[torch.Tensor]) -> Any:
    return lambda x: forward(x) + given[0]


def test_dora_begins_as_the_base_model_and_trains_magnitudes(
    config: MakeConfig, exact: TransformersBase, batch: dict[str, torch.Tensor]
) -> None:
    model = exact.add_adapter(config(use_dora=True))
    loss = exact.nll_sum(model, batch)
    torch.autograd.backward(loss)
    magnitudes = [p.grad for name, p in model.named_parameters() if "magnitude" in name]
    exact.remove_adapter()
    assert float(loss.detach()) == pytest.approx(nll(exact, padded(batch)), rel=1e-5)
    assert magnitudes and all(grad is not None and grad.any() for grad in magnitudes)


def test_8_bits_train_without_a_line_in_the_log_for_every_layer(
    config: MakeConfig,
    base_in: BaseIn,
    batch: dict[str, torch.Tensor],
    caplog: pytest.LogCaptureFixture,
) -> None:
    base = base_in("int8", "auto")
    model = with_trained_adapter(base, config())
    with caplog.at_level(logging.INFO):
        gradients(base, model, padded(batch))
    base.remove_adapter()
    assert caplog.text == ""


def test_the_compute_type_is_the_one_asked_for() -> None:
    cpu = torch.device("cpu")
    assert compute_dtype("auto", cpu) is torch.bfloat16
    assert compute_dtype("float16", cpu) is torch.float16
    assert compute_dtype("float32", cpu) is torch.float32


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [
        ("llama", torch.float16),
        ("gemma2", torch.float16),
        ("gemma3_text", torch.float32),
        ("qwen3_moe", torch.float32),
    ],
)
def test_a_gpu_without_bfloat16_computes_what_overflows_in_float32(
    monkeypatch: pytest.MonkeyPatch, model_type: str, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert compute_dtype("auto", torch.device("cuda", 0), model_type) is expected


def test_attention_that_does_not_work_here_is_told_and_left(
    exact: TransformersBase, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_wide(*_: Any, **__: Any) -> None:
        raise RuntimeError("FlashAttention forward only supports head dimension at most 256")

    AttentionInterface.register("too_wide", too_wide)
    own = exact.model.config._attn_implementation
    for kind in ("flash_attention_2", "too_wide"):  # not installed: an ImportError
        switch_attention(exact.model, kind, torch.bfloat16)
        assert exact.model.config._attn_implementation == own == "sdpa"
        said = capsys.readouterr().out.splitlines()
        assert len(said) == 1 and f"{kind} does not work here, so attention is sdpa:" in said[0]


def test_the_thrown_away_pass_leaves_the_base_as_it_was(
    exact: TransformersBase, model: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = iter([2**30, 2**30])  # what the kernels keep, and what is there after a trial
    monkeypatch.setattr(proof, "_allocated_bytes", lambda: next(held))
    exact._proof = proof.Proof(exact.model)
    lengths: list[int] = []
    nll_sum = exact.nll_sum

    def seen(model: Any, batch: packing.Batch) -> torch.Tensor:
        lengths.append(batch["input_ids"].shape[1])
        return nll_sum(model, batch)

    monkeypatch.setattr(exact, "nll_sum", seen)
    first_pass(exact, model)
    assert lengths == [64]
    exact.remove_adapter()


def test_the_memory_of_a_token_is_known_at_load(exact: TransformersBase) -> None:
    assert exact.activation_bytes_per_token > 0
