"""Which models keep rows apart, packed or padded, shown on tiny ones of several kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.tiny import model_config, transformers_base
from trials.backends.packing import Batch
from trials.backends.rows_apart import most_tokens
from trials.backends.transformers_qlora import TransformersBase
from trials.config import ComputeDtype, Quantization
from trials.data.batches import collate
from trials.data.tokens import IGNORED

COMMON = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TWO_KINDS = ["linear_attention", "full_attention"]
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "opt": {"ffn_dim": 128, "word_embed_proj_dim": 64, "init_std": 0.1},
    "qwen3_5_text": {
        "layer_types": TWO_KINDS,
        "head_dim": 16,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    },
    "bamba": {
        "attn_layer_indices": [1],
        "mamba_n_heads": 8,
        "mamba_d_head": 16,
        "mamba_d_state": 16,
        "mamba_chunk_size": 16,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "minimax": {"layer_types": TWO_KINDS, "head_dim": 16, "block_size": 16, "num_local_experts": 2},
    "llama4_text": {
        "layer_types": ["chunked_attention", "full_attention"],
        "attention_chunk_size": 16,
        "head_dim": 16,
        "intermediate_size_mlp": 128,
        "num_local_experts": 2,
    },
    "gpt_neo": {
        "attention_types": [[["global", "local"], 1]],
        "num_layers": 2,
        "num_heads": 4,
        "window_size": 16,
    },
    "recurrent_gemma": {
        "block_types": ["recurrent", "attention"],
        "lru_width": 64,
        "attention_window_size": 16,
    },
    # Takes `logits_to_keep`, and makes all logits.
    "xlstm": {"num_heads": 4, "num_blocks": 2, "embedding_dim": 64},
}
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Make a model with random weights."""

    def make(kind: str, *, seed: int = 0) -> Path:
        path = tmp_path_factory.mktemp(kind)
        torch.manual_seed(seed)
        known = AutoConfig.for_model(kind).to_dict()
        common = {name: value for name, value in COMMON.items() if name in known}
        config = AutoConfig.for_model(kind, **{**common, **MODELS[kind]})
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.to(torch.bfloat16).save_pretrained(path)
        return path

    return make


def loaded(folder: Path, quantization: Quantization, dtype: ComputeDtype) -> TransformersBase:
    model = replace(model_config(folder), quantization=quantization, compute_dtype=dtype)
    return transformers_base(model)


def uneven_rows() -> Batch:
    chance = torch.Generator().manual_seed(1)
    rows = [torch.randint(320, (n,), generator=chance) for n in (31, 7, 3, 5, 4, 3)]
    return collate([{"input_ids": row, "labels": row} for row in rows])


@torch.no_grad()
def losses_alone(base: TransformersBase, batch: Batch) -> list[float]:
    """Of a plain loop over the rows: no packing, no padding, whole logits."""
    losses = []
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        row = ids[mask.bool()]
        with torch.autocast("cpu", base.dtype, enabled=base.dtype is not torch.float32):
            logits = base.model(input_ids=row[None], use_cache=False).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits.float(), row[1:], reduction="sum")
        losses.append(float(loss))
    return losses


def pack_where_possible(base: TransformersBase) -> None:
    """As a large model would: its linear layers cost more than attention to padding."""
    if base._cost is not None:
        base._cost = replace(base._cost, linear_weights=10**12)


@torch.no_grad()
def losses_in_a_batch(base: TransformersBase, batch: Batch) -> list[float]:
    pack_where_possible(base)
    return [float(loss) for loss in base.nll_rows(base.model, batch)[0]]


@pytest.mark.parametrize("dtype", ["float32", "auto"])
@pytest.mark.parametrize("kind", MODELS)
def test_rows_of_a_batch_have_the_losses_that_they_have_alone(
    folder: Make, kind: str, dtype: ComputeDtype
) -> None:
    base = loaded(folder(kind), "none", dtype)
    assert base._rows_stay_apart is (kind in ("llama", "opt", "gpt_neo"))
    batch = uneven_rows()
    alone = losses_alone(base, batch)
    tolerance = 1e-5 if dtype == "float32" else 1e-2
    assert losses_in_a_batch(base, batch) == pytest.approx(alone, rel=tolerance)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize(("kind", "is_apart"), [("llama", True), ("opt", False)])
def test_quantisation_hides_no_leak_and_makes_none(
    folder: Make, kind: str, is_apart: bool, quantization: Quantization
) -> None:
    for seed in range(2):
        base = loaded(folder(kind, seed=seed), quantization, "auto")
        base._carries_state = True  # transformers is left to find the rows, and fails with OPT
        assert base._tells_rows_apart() is is_apart


def test_the_outliers_of_8_bit_layers_are_as_before(folder: Make) -> None:
    from bitsandbytes.nn import Linear8bitLt

    model = loaded(folder("llama"), "int8", "auto").model
    layers = [layer for layer in model.modules() if isinstance(layer, Linear8bitLt)]
    assert layers and all(layer.state.threshold == 6.0 for layer in layers)


def test_rows_are_never_packed_beyond_the_positions_of_a_mask(folder: Make) -> None:
    base = loaded(folder("gpt_neo"), "none", "float32")
    pack_where_possible(base)
    row = {"input_ids": [5] * 40, "labels": [5] * 40}
    short = {name: ids[:3] for name, ids in row.items()}
    assert most_tokens(base.model) == 128
    assert base._packs(collate([row, row, short]))
    assert not base._packs(collate([row, row, row, short, short, short]))


def test_a_model_that_makes_all_logits_is_asked_for_those_of_completions(folder: Make) -> None:
    base = loaded(folder("xlstm"), "none", "float32")
    ids = torch.arange(5, 14)
    labels = torch.where(torch.arange(9) < 4, IGNORED, ids)
    batch = collate([{"input_ids": ids, "labels": labels}] * 2)
    with torch.no_grad():
        logits = base.model(input_ids=ids[None], use_cache=False).logits[0, 3:-1]
        loss = float(base.nll_sum(base.model, batch))
    alone = torch.nn.functional.cross_entropy(logits, ids[4:], reduction="sum")
    assert loss == pytest.approx(2 * float(alone), rel=1e-5)


def continued_alone(base: TransformersBase, prompt: list[int], n: int) -> list[int]:
    """Of a plain loop: no batch, no padding, no cache."""
    ids = list(prompt)
    for _ in range(n):
        with torch.no_grad():
            ids.append(int(base.model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize(
    "kind", ["llama", "opt", "bamba", "lfm2", "minimax", "recurrent_gemma", "llama4_text"]
)
def test_prompts_of_a_batch_are_continued_as_they_are_alone(
    folder: Make, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = loaded(folder(kind), "none", "float32")
    chance = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, 319, (n,), generator=chance).tolist() for n in (5, 23, 1)]
    for _ in range(2):
        found = base.generate(prompts, stop_ids=[319], max_new_tokens=8)
        alone = [continued_alone(base, prompt, 8) for prompt in prompts]
        assert found == [row[: row.index(319)] if 319 in row else row for row in alone]
    said = capsys.readouterr().out.count("answers are generated one at a time")
    assert said == (kind in ("minimax", "recurrent_gemma"))


def test_prompts_of_one_length_need_no_look_at_padding(folder: Make) -> None:
    base = loaded(folder("recurrent_gemma"), "none", "float32")
    prompts = [[5, 6, 7], [8, 9, 10]]
    alone = [continued_alone(base, prompt, 4) for prompt in prompts]
    assert base.generate(prompts, stop_ids=[319], max_new_tokens=4) == alone
    assert "_padding_is_unseen" not in vars(base._continuing)


@pytest.mark.parametrize(("n_new", "sizes"), [(2, [2]), (8, [1, 1])])
def test_prompts_that_pass_a_chunk_are_continued_one_by_one(
    folder: Make, monkeypatch: pytest.MonkeyPatch, n_new: int, sizes: list[int]
) -> None:
    """Llama 4's chunks begin at multiples of 16 positions, the padding's counted."""
    base = loaded(folder("llama4_text"), "none", "float32")
    assert base._continuing._padding_is_unseen
    batches: list[int] = []

    def continued(prompts: list[list[int]], *_: Any) -> list[list[int]]:
        batches.append(len(prompts))
        return [[] for _ in prompts]

    monkeypatch.setattr(base._continuing, "_continued", continued)
    base.generate([[5] * 5, [6] * 12], stop_ids=[319], max_new_tokens=n_new)
    assert batches == sizes
