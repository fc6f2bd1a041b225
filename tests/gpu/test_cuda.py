"""What only a GPU can tell: the kernels, the memory that comes back, the micro-batch."""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import eval_loss, transformers_base
from trials.backends.attention import FLASH, switch_attention
from trials.backends.known_rows import VARLEN
from trials.backends.liger_loss import liger_cross_entropy
from trials.backends.loading import BACKEND_MODULES, load
from trials.backends.packing import Layout, padded
from trials.backends.proof import MEMORY_SLACK, content_hash
from trials.config import Backend, ComputeDtype, EvalPoint, ModelConfig, Quantization, TrialConfig
from trials.data.batches import collate
from trials.data.tokens import TokenRows
from trials.models.frozen_base import FrozenBase
from trials.models.loss import ChunkedLoss, WholeLoss

MakeConfig = Callable[..., TrialConfig]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
needs_unsloth = pytest.mark.skipif(
    importlib.util.find_spec("unsloth") is None, reason="needs the unsloth extra"
)
BACKENDS = ["transformers", pytest.param("unsloth", marks=needs_unsloth)]
BACKENDS_AND_PRECISIONS = [
    *(("transformers", quantization) for quantization in ("nf4", "int8", "none")),
    # Unsloth has no fast path for int8, so that is refused.
    *(
        pytest.param("unsloth", quantization, marks=needs_unsloth)
        for quantization in ("nf4", "none")
    ),
]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a fresh process saw: it loads a base model and runs trials on it."""

    base_loss: float
    """Without an adapter."""
    losses: list[list[float]]
    """Of each trial's evaluations."""
    held_bytes: list[int]
    """Device memory at load, then after each trial."""


def in_a_worker(function: Callable[[Any], Any], argument: Any) -> Any:
    """Call a function in a process of its own: Unsloth patches transformers for good."""
    with multiprocessing.get_context("spawn").Pool(1) as worker:
        return worker.apply(function, (argument,))


def seen_by_a_worker(configs: list[TrialConfig]) -> Seen:
    """Load the base model of `configs` and run them, one after the other."""
    seen: Seen = in_a_worker(_work, configs)
    return seen


def _work(configs: list[TrialConfig]) -> Seen:
    base = load(configs[0].model)
    held = [torch.cuda.memory_allocated()]
    rows = TokenRows(Path(configs[0].data_dir) / "sample", 64)
    base_loss = eval_loss(base, base.model, rows, configs[0].eval_batch_size)
    curves = []
    for config in configs:
        curves.append(losses(config, base))
        held.append(torch.cuda.memory_allocated())
    return Seen(base_loss, curves, held)


def losses(config: TrialConfig, base: FrozenBase) -> list[float]:
    # Not at the top: in a worker Unsloth comes first, and these import transformers and peft.
    from trials.memory.micro_batches import MicroBatchMemory
    from trials.training.train import run_trial

    points: list[EvalPoint] = []
    Path(config.output_dir).mkdir(parents=True)
    run_trial(config, base, MicroBatchMemory(), points.append)
    return [point.eval_loss for point in points]


@pytest.mark.parametrize(("backend", "quantization"), BACKENDS_AND_PRECISIONS)
def test_before_the_first_step_the_loss_is_the_base_models(
    config: MakeConfig, backend: Backend, quantization: Quantization
) -> None:
    model = replace(config().model, backend=backend, quantization=quantization)
    seen = seen_by_a_worker([config(model=model, evaluate_base=True)])
    assert seen.losses[0][0] == pytest.approx(seen.base_loss, rel=1e-3)
    assert seen.losses[0][-1] < seen.losses[0][0]


@needs_unsloth
def test_the_backends_give_one_curve(config: MakeConfig) -> None:
    curves = []
    backends: list[Backend] = ["transformers", "unsloth"]
    for number, backend in enumerate(backends):
        # In 16 bits: the backends do not quantise the same modules.
        model = replace(config().model, backend=backend, quantization="none")
        trial = config(number, model=model, evaluate_base=True)
        curves.append(seen_by_a_worker([trial]).losses[0])
    assert curves[0] == pytest.approx(curves[1], rel=1e-2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_returns_to_its_baseline_after_each_of_ten_trials(
    config: MakeConfig, backend: Backend
) -> None:
    model = replace(config().model, backend=backend)
    seen = seen_by_a_worker([config(number, model=model) for number in range(10)])
    at_load, after_the_first, *later = seen.held_bytes
    assert after_the_first - at_load <= MEMORY_SLACK  # cuBLAS takes its workspaces when needed
    assert later == [after_the_first] * 9


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_warm_worker_gives_the_losses_of_a_cold_one(config: MakeConfig, backend: Backend) -> None:
    model = replace(config().model, backend=backend)
    other = config(0, model=model, rank=4, target_modules="attention", seed=1)
    warm = seen_by_a_worker([other, config(1, model=model)]).losses[1]
    cold = seen_by_a_worker([config(2, model=model)]).losses[0]
    assert warm == pytest.approx(cold, rel=1e-4)  # sums of gradients come in any order


def test_activations_computed_again_give_the_loss_of_kept_ones(config: MakeConfig) -> None:
    base = load(config().model)
    rows = TokenRows(Path(config().data_dir) / "sample", 64)
    batch = collate([rows[i] for i in range(8)])
    torch.manual_seed(0)
    adapted = base.add_adapter(config()).train()
    kept = float(base.nll_sum(adapted, batch))
    base.recompute_activations()
    assert float(base.nll_sum(adapted, batch)) == kept
    base.remove_adapter()


def test_micro_batches_of_8_and_4_give_one_curve(config: MakeConfig) -> None:
    base = load(config().model)
    whole = losses(config(0), base)
    split = losses(config(1, micro_batch_size=4), base)
    assert whole == pytest.approx(split, rel=5e-3)  # sums in bfloat16 in another order


def test_8_bit_adamw_learns_like_adamw(config: MakeConfig) -> None:
    base = load(config().model)
    plain = losses(config(0), base)
    small = losses(config(1, optimizer="adamw_8bit"), base)
    assert small == pytest.approx(plain, rel=2e-2)


@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_packed_rows_have_the_loss_of_padded_ones(
    config: MakeConfig, quantization: Quantization
) -> None:
    base = transformers_base(replace(config().model, quantization=quantization))
    rows = TokenRows(Path(config().data_dir) / "sample", 64)
    batch = collate([{name: t[:n] for name, t in rows[n].items()} for n in (15, 7, 12, 5)])
    assert base._rows_stay_apart

    @torch.no_grad()
    def nll(layout: Layout) -> float:
        logits, targets = base._logits(base.model, layout)
        return float(torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum"))

    assert nll(base._packed(batch)) == pytest.approx(nll(padded(batch)), rel=1e-2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_loss_in_chunks_is_that_of_whole_logits(
    config: MakeConfig, dtype: ComputeDtype
) -> None:
    base = transformers_base(replace(config().model, compute_dtype=dtype))
    chunked = base._loss
    assert isinstance(chunked, ChunkedLoss)
    is_fused = importlib.util.find_spec("liger_kernel") is not None and dtype == "bfloat16"
    assert (chunked.cross_entropy is liger_cross_entropy) == is_fused
    rows = TokenRows(Path(config().data_dir) / "sample", 64)
    batch = collate([rows[i] for i in range(8)])
    adapted = base.add_adapter(config()).eval()

    def step() -> tuple[float, torch.Tensor]:
        adapted.zero_grad()
        nll = base.nll_sum(adapted, batch)
        torch.autograd.backward(nll * 2.0**10)  # as in a trial, so that float16 keeps small ones
        of_b = [p.grad for p in adapted.parameters() if p.grad is not None]
        return float(nll), torch.cat([gradient.flatten() for gradient in of_b])

    base._loss = replace(chunked, most_logits=5 * len(chunked.head.weight))
    found, gradient = step()
    base._loss = WholeLoss()
    wanted, own = step()
    assert found == pytest.approx(wanted, rel=1e-4)
    assert (gradient - own).norm() <= 2e-2 * own.norm()
    base.remove_adapter()


def test_torchs_own_attention_of_packed_rows_learns_as_padded_rows_do(config: MakeConfig) -> None:
    """In bfloat16: their loss, and the gradient of the adapter."""
    base = transformers_base(replace(config().model, quantization="none"))
    if base.model.config._attn_implementation == FLASH:
        base.model.set_attn_implementation("sdpa")
        switch_attention(base.model, VARLEN, base.dtype)
    if base.model.config._attn_implementation != VARLEN:
        pytest.skip("this torch, or this GPU, has no varlen_attn")
    rows = TokenRows(Path(config().data_dir) / "sample", 64)
    batch = collate([{name: t[:n] for name, t in rows[n].items()} for n in (15, 7, 12, 5)])
    adapted = base.add_adapter(config())
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:  # zero in a new adapter, and then A has no gradient
            torch.nn.init.normal_(parameter, std=0.02)

    def learnt(layout: Layout) -> tuple[float, torch.Tensor]:
        adapted.zero_grad()
        logits, targets = base._logits(adapted, layout)
        loss = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")
        torch.autograd.backward(loss)
        grads = [p.grad.flatten() for p in adapted.parameters() if p.grad is not None]
        return float(loss), torch.cat(grads)

    (loss, gradient), (expected, of_padded) = learnt(base._packed(batch)), learnt(padded(batch))
    base.remove_adapter()
    assert loss == pytest.approx(expected, rel=1e-2)
    assert float((gradient - of_padded).norm() / of_padded.norm()) < 5e-2


@pytest.mark.parametrize("kind", ["as it is loaded", "sdpa"])
@pytest.mark.parametrize("is_packed", [True, False])
def test_the_loss_does_not_wait_for_the_device(
    config: MakeConfig, kind: str, is_packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = transformers_base(config().model)
    if kind == "sdpa":
        base.model.set_attn_implementation(kind)
        base._names_bounds = False
    monkeypatch.setattr(base, "_packs", lambda _: is_packed)
    rows = TokenRows(Path(config().data_dir) / "sample", 64)
    batch = collate([{name: t[:n] for name, t in rows[n].items()} for n in (15, 7, 12)])
    adapted = base.add_adapter(config())
    base.nll_sum(adapted, batch)  # what is made once is made
    torch.cuda.set_sync_debug_mode("error")
    try:
        base.nll_sum(adapted, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        base.remove_adapter()


def test_equal_content_has_one_hash_on_the_gpu_and_on_the_processor(config: MakeConfig) -> None:
    base = load(replace(config().model, quantization="none"))
    on_gpu = content_hash(base.model)
    assert content_hash(base.model.cpu()) == on_gpu


def _hash_after_loading(model: ModelConfig) -> str:
    importlib.import_module(BACKEND_MODULES[model.backend])  # Unsloth comes first
    from trials.backends import quantised

    quantised.SMALLEST_BYTES = 0
    base = load(model)
    return content_hash(base.model)


@pytest.mark.parametrize(
    ("backend", "quantization"),
    [
        ("transformers", "nf4"),
        ("transformers", "int8"),
        pytest.param("unsloth", "nf4", marks=needs_unsloth),
    ],
)
def test_what_is_read_from_the_cache_is_what_was_quantised(
    config: MakeConfig,
    backend: Backend,
    quantization: Quantization,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = replace(config().model, backend=backend, quantization=quantization)
    first, second = (in_a_worker(_hash_after_loading, model) for _ in range(2))
    assert len(list((tmp_path / "sweep" / "quantised").glob("*/content.json"))) == 1
    assert "made anew" not in capfd.readouterr().out
    assert first == second


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_base_and_adapter_in_one_call_have_pefts_gradients(
    config: MakeConfig, quantization: Quantization
) -> None:
    from peft.tuners.lora import LoraLayer

    base = transformers_base(replace(config().model, quantization=quantization))
    adapted = base.add_adapter(config()).train()
    layer: Any = next(module for module in adapted.modules() if isinstance(module, LoraLayer))
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.nn.init.normal_(b, std=0.02)
    x = torch.randn(2, 20, layer.in_features, device=base.device, dtype=base.dtype)

    def gradients(forward: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, ...]:
        given = x.clone().requires_grad_()
        with base._autocast():
            y = forward(given)
        return torch.autograd.grad(y.float().square().sum(), [given, a, b])

    ours, pefts = gradients(layer), gradients(lambda x: type(layer).forward(layer, x))
    for mine, theirs in zip(ours, pefts, strict=True):
        assert mine.dtype == theirs.dtype
        assert (mine - theirs).norm() <= 2e-2 * theirs.norm()
