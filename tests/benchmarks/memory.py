"""The memory estimate beside measured peaks: `python -m tests.benchmarks.memory [SHAPE …]`.

Random models on the CPU, each loaded, adapted and trained for two steps as trials do. The
peak is what torch's allocator has handed out and not got back; the weights are counted as tensors.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM

from tests.sweep.reviewed import make_config
from trials.backends.loading import load
from trials.config import AdapterChoices, ModelConfig
from trials.models.frozen_base import FrozenBase
from trials.preparation.sizing import size_up

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Shape:
    model_type: str
    config: dict[str, Any] = field(default_factory=dict)
    quantization: Any = "nf4"
    compute_dtype: Any = "bfloat16"
    rank: int = 16
    targets: str = "all-linear"
    experts: bool = False
    use_dora: bool = False
    dropout: float = 0.0
    rows: int = 2
    length: int = 192


LLAMA = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "vocab_size": 32000,
}
GROUPED = LLAMA | {"num_key_value_heads": 2, "head_dim": 64, "tie_word_embeddings": False}
EXPERTS = GROUPED | {"num_hidden_layers": 4, "num_experts_per_tok": 2, "intermediate_size": 512}
LATENT = {"kv_lora_rank": 128, "q_lora_rank": 256, "qk_rope_head_dim": 32, "head_dim": 32}
LATENT |= {"qk_nope_head_dim": 64, "v_head_dim": 64, "n_group": 1, "topk_group": 1}
LATENT |= {"num_key_value_heads": 8, "n_routed_experts": 8, "first_k_dense_replace": 1}

QWEN_MOE = EXPERTS | {"num_experts": 16, "moe_intermediate_size": 256}
GPT_OSS = EXPERTS | {"num_local_experts": 8}
DEEPSEEK = EXPERTS | LATENT | {"moe_intermediate_size": 256}

SHAPES = {
    "dense, 16 bits": Shape(model_type="llama", config=LLAMA, quantization="none"),
    "dense, float32": Shape(
        model_type="llama", config=LLAMA, quantization="none", compute_dtype="float32"
    ),
    "dense, int8": Shape(model_type="llama", config=LLAMA, quantization="int8"),
    "dense, attention alone": Shape(model_type="llama", config=LLAMA, targets="attention"),
    "dense, adapter with dropout": Shape(model_type="llama", config=LLAMA, dropout=0.1),
    "dense, DoRA": Shape(model_type="llama", config=LLAMA, use_dora=True),
    "dense, DoRA, 16 bits": Shape(
        model_type="llama", config=LLAMA, use_dora=True, quantization="none"
    ),
    "dense, DoRA with dropout": Shape(model_type="llama", config=LLAMA, use_dora=True, dropout=0.1),
    "grouped queries, rank 256": Shape(model_type="llama", config=GROUPED, rank=256),
    "grouped queries, rank 2, long rows": Shape(
        model_type="llama", config=GROUPED, rank=2, rows=1, length=1536
    ),
    "152,000 tokens": Shape(
        model_type="qwen3", config=GROUPED | {"num_hidden_layers": 6, "vocab_size": 151936}
    ),
    "262,000 tokens, tied": Shape(
        model_type="gemma3_text",
        config={
            **GROUPED,
            "hidden_size": 320,
            "num_hidden_layers": 6,
            "vocab_size": 262144,
            "tie_word_embeddings": True,
        },
    ),
    "experts": Shape(model_type="qwen3_moe", config=QWEN_MOE),
    "experts adapted": Shape(model_type="qwen3_moe", config=QWEN_MOE, experts=True),
    "experts adapted, 16 bits": Shape(
        model_type="qwen3_moe", config=QWEN_MOE, experts=True, quantization="none"
    ),
    "experts, attention with sinks": Shape(model_type="gpt_oss", config=GPT_OSS),
    "experts with biases, adapted": Shape(model_type="gpt_oss", config=GPT_OSS, experts=True),
    "experts, latent attention": Shape(model_type="deepseek_v3", config=DEEPSEEK),
    "latent attention, experts adapted": Shape(
        model_type="deepseek_v3", config=DEEPSEEK, experts=True
    ),
    "GPT-2, with dropout": Shape(model_type="gpt2", config={"n_layer": 8}),
    "Falcon": Shape(
        model_type="falcon",
        config={"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 8},
    ),
}


def guess(model: ModelConfig, shape: Shape) -> dict[str, float]:
    """Estimate as `sweep check` does."""
    asked = AdapterChoices(
        target_modules=[shape.targets],
        experts=[shape.experts],
        use_dora=shape.use_dora,
        largest_dropout=shape.dropout,
        largest_rank=shape.rank,
    )
    return size_up(model, asked, on_gpu=False).memory(
        optimizer="adamw", micro_batch_size=shape.rows, max_length=shape.length, on_gpu=False
    )


def held_bytes(model: Any) -> int:
    """Return the bytes of all tensors of a model, those of quantisation too."""
    tensors = [t for m in model.modules() for t in _tensors(vars(m))]
    tensors += [t for p in model.parameters() for t in [p, *_tensors(vars(p))]]
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())


def _tensors(values: dict[str, Any]) -> Iterator[torch.Tensor]:
    for value in values.values():
        if isinstance(value, torch.Tensor):
            yield value
        elif type(value) is dict:
            yield from _tensors(value)
        elif type(value).__name__ in ("QuantState", "MatmulLtState"):
            yield from _tensors(vars(value))


def most_allocated(work: Callable[[], None]) -> int:
    """Return the most that torch's allocator holds at once for `work`, beside what it held."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    kineto = seen.profiler.kineto_results.events()
    events = sorted((e.start_ns(), e.nbytes()) for e in kineto if e.name() == "[memory]")
    now = most = 0
    for _, n_bytes in events:
        now += n_bytes
        most = max(most, now)
    return most


def two_steps(base: FrozenBase, shape: Shape, n_tokens: int) -> None:
    """Train as a trial does, on rows of the full length, each token a target."""
    ids = torch.randint(5, n_tokens - 5, (shape.rows, shape.length))
    batch = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}
    config = replace(
        make_config(),
        rank=shape.rank,
        target_modules=shape.targets,
        experts=shape.experts,
        use_dora=shape.use_dora,
        dropout=shape.dropout,
    )
    model = base.add_adapter(config).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    for _ in range(2):
        torch.autograd.backward(base.nll_sum(model, batch))
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()


def compare(name: str, shape: Shape, folder: Path) -> None:
    """Print a row of the table."""
    config = AutoConfig.for_model(shape.model_type, **shape.config)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    model = ModelConfig(
        name=str(folder),
        revision=None,
        quantization=shape.quantization,
        compute_dtype=shape.compute_dtype,
        backend="transformers",
        max_length=shape.length,
        trust_remote_code=False,
    )
    found = guess(model, shape)
    parts = {part: found[f"{part}_gib"] * 1024 for part in ("weights", "adapter", "activations")}
    base = load(model)
    held = held_bytes(base.model)
    peak = held + most_allocated(lambda: two_steps(base, shape, config.vocab_size))
    total = sum(parts.values())
    print(
        f"| {name} | {found['base_parameters'] / 1e6:.0f} M | {held / MIB:.0f} | "
        f"{parts['weights']:.0f} | {peak / MIB:.0f} | {total:.0f} "
        f"| {total * MIB / peak - 1:+.1%} |",
        flush=True,
    )


def main() -> None:
    """Compare the shapes that are named; all, if none is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    words = f"in quotes: {', '.join(SHAPES)} (default: all)"
    parser.add_argument("names", nargs="*", metavar="SHAPE", help=words)
    names = parser.parse_args().names
    if unknown := sorted({*names} - {*SHAPES}):
        parser.error(f"no such shape: {', '.join(unknown)}.")
    torch.manual_seed(0)
    print(
        "| shape | parameters | weights, MiB | estimate | peak, MiB | estimate | difference |\n"
        "|---|---|---|---|---|---|---|"
    )
    for name in names or SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            compare(name, SHAPES[name], Path(folder))


if __name__ == "__main__":
    main()
