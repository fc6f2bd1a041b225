"""Rows end to end by torch's `varlen_attn`, which runs on GPUs alone: a loop stands for it here."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own spelling
from torch._subclasses import FakeTensorMode

from tests.trials.backends.test_known_rows import layouts, tiny, waits
from trials.backends.attention import switch_attention
from trials.backends.known_rows import VARLEN, rows_known
from trials.backends.packing import packed, padded
from trials.backends.transformers_qlora import TransformersBase
from trials.backends.varlen import attend, can_name_bounds
from trials.data.batches import collate
from trials.machine import libraries

LENGTHS = (31, 7, 25)
"""Beyond the tiny models' windows of 16 tokens."""
TAKES_IT = ["llama", "qwen3", "mistral", "gemma3_text", "granite", "gpt_neox", "qwen2_moe"]


def row_by_row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    bounds_of_keys: torch.Tensor,
    longest: int,
    longest_of_keys: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
) -> torch.Tensor:
    """What torch's kernel computes, as its documentation says."""
    assert bounds is bounds_of_keys and bounds.dtype == torch.int32
    assert longest == longest_of_keys == int(bounds.diff().max())
    left, right = window_size
    found = []
    for begin, end in itertools.pairwise(bounds.tolist()):
        at = torch.arange(end - begin)
        distance = at[:, None] - at
        seen = (distance <= left) | torch.tensor(left < 0)
        seen &= -distance <= right
        q, k, v = (each[begin:end].transpose(0, 1)[None] for each in (query, key, value))
        of_row = F.scaled_dot_product_attention(q, k, v, seen, scale=scale, enable_gqa=True)
        found.append(of_row[0].transpose(0, 1))
    return torch.cat(found)


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "varlen_attn", lambda: row_by_row)


def rows() -> list[torch.Tensor]:
    chance = torch.Generator().manual_seed(1)
    return [torch.randint(3, 80, (n,), generator=chance) for n in LENGTHS]


def learnt(model: Any, forward: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits, and the gradient of all embeddings."""
    weight = model.get_input_embeddings().weight.requires_grad_(True)
    weight.grad = None
    logits = forward()
    torch.autograd.backward(logits.square().sum())
    assert weight.grad is not None
    return logits.detach(), weight.grad.clone()


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("name", TAKES_IT)
def test_packed_rows_are_learnt_as_each_is_alone_by_the_models_own_attention(name: str) -> None:
    model = tiny(name)
    batch = collate([{"input_ids": row, "labels": row} for row in rows()])

    def alone() -> torch.Tensor:
        return torch.cat([model(input_ids=row[None], use_cache=False).logits[0] for row in rows()])

    def end_to_end() -> torch.Tensor:
        inputs = dict(packed(batch, name_bounds=True).inputs)
        with rows_known(inputs) as known:
            found: torch.Tensor = model(**known, use_cache=False).logits[0]
            return found

    expected = learnt(model, alone)
    model.requires_grad_(False)
    switch_attention(model, VARLEN, torch.float32)
    assert model.config._attn_implementation == VARLEN and not model.training
    for one, other in zip(expected, learnt(model, end_to_end), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5 * float(one.abs().max()))


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gemma2", "its layers ask for softcap"),
        ("gpt2", "its layers ask for dropout"),
        ("deepseek_v3", "keys of another shape than values"),
        ("stablelm", "a row after another has other logits than alone"),  # has layers for sdpa
        ("falcon", None),  # has an attention of its own
    ],
)
def test_a_model_that_asks_for_more_keeps_its_attention(
    name: str, why: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny(name)
    assert can_name_bounds(model)
    before = model(input_ids=rows()[0][None], use_cache=False).logits
    capsys.readouterr()
    switch_attention(model, VARLEN, torch.float32)
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model(input_ids=rows()[0][None], use_cache=False).logits, before)
    said = capsys.readouterr().out
    assert (why in said and said.count("\n") == 1) if why else not said


@pytest.mark.parametrize("name", ["gpt_oss", "qwen3_5_text", "llama4_text", "gpt_neo"])
def test_a_model_without_sdpa_or_whose_layers_hand_on_too_little_is_not_tried(name: str) -> None:
    assert not can_name_bounds(tiny(name))


def test_where_torch_cannot_run_it_attention_is_sdpa_and_that_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = tiny("llama")
    switch_attention(model, VARLEN, torch.float32)
    assert model.config._attn_implementation == "sdpa"
    assert f"{VARLEN} does not work here, so attention is sdpa: " in capsys.readouterr().out


def test_the_torch_that_is_installed_takes_the_call() -> None:
    settings: dict[str, Any] = {"scaling": 0.25, "sliding_window": 16, "dropout": 0.0}
    with FakeTensorMode():  # shapes without numbers
        q, k, v = (torch.empty(1, n, 46, 16, dtype=torch.bfloat16) for n in (4, 2, 2))
        settings |= {"cu_seq_lens_q": torch.empty(3, dtype=torch.int32), "max_length_q": 27}
        found, _ = attend(torch.nn.Module(), q, k, v, None, **settings)
    assert (found.shape, found.dtype) == ((1, 46, 4, 16), torch.bfloat16)


def test_under_autocast_it_computes_in_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    types: list[torch.dtype] = []

    def kernel(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
    ) -> Any:
        types.extend(each.dtype for each in (query, key, value))
        return query

    monkeypatch.setattr(libraries, "varlen_attn", lambda: kernel)
    wide, narrow = torch.zeros(1, 4, 5, 16), torch.zeros(1, 4, 5, 16, dtype=torch.bfloat16)
    bounds = torch.tensor([0, 5], dtype=torch.int32)
    with torch.autocast("cpu", torch.bfloat16):  # positions may be put on queries in float32
        attend(torch.nn.Module(), wide, wide, narrow, None, cu_seq_lens_q=bounds, max_length_q=5)
    assert types == [torch.bfloat16] * 3


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_a_base_packs_every_batch_and_continues_prompts_as_before(name: str) -> None:
    model, device = tiny(name), torch.device("cpu")
    prompts = [row.tolist() for row in rows()]
    asked: dict[str, Any] = {"stop_ids": [2], "max_new_tokens": 6}
    plain = TransformersBase(model, device, torch.float32).generate(prompts, **asked)
    switch_attention(model, VARLEN, torch.float32)
    base = TransformersBase(model, device, torch.float32)
    batch = collate([{"input_ids": row, "labels": row} for row in rows()])
    assert base._rows_stay_apart and base._packs(batch)
    with torch.no_grad():
        losses, _ = base.nll_rows(model, batch)
        logits, targets = base._logits(model, padded(batch))
    side_by_side = F.cross_entropy(logits, targets, reduction="sum")
    assert float(losses.sum()) == pytest.approx(float(side_by_side), rel=1e-5)
    assert base.generate(prompts, **asked) == plain


@pytest.mark.usefixtures("on_cpu")
def test_the_padded_layout_waits_for_nothing_either() -> None:
    model = tiny("llama")
    switch_attention(model, VARLEN, torch.float32)
    base = TransformersBase(model, torch.device("cpu"), torch.float32)
    assert waits(base, layouts()[1]) == {}


def test_an_older_torch_without_scale_and_window_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn.attention import varlen

    def of_2_10(query: Any, key: Any, value: Any, *_: Any, is_causal: bool = False) -> None:
        raise AssertionError

    monkeypatch.setattr(varlen, "varlen_attn", of_2_10)
    libraries.varlen_attn.cache_clear()
    try:
        with pytest.raises(ImportError, match="no scale and no window"):
            libraries.varlen_attn()
    finally:
        libraries.varlen_attn.cache_clear()
