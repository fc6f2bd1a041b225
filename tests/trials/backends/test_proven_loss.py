"""The loss in chunks beside that of whole logits, on tiny models with heads of many kinds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from tests.sweep.reviewed import make_config
from tests.tiny import model_config, transformers_base
from trials.backends.liger_loss import liger_cross_entropy
from trials.backends.packing import Batch, padded
from trials.backends.proof import Proof
from trials.backends.proven_loss import _why_not
from trials.backends.transformers_qlora import TransformersBase
from trials.config import TrialConfig
from trials.data.batches import collate
from trials.data.tokens import IGNORED
from trials.memory.estimate import activation_bytes_per_token
from trials.models.loss import ChunkedLoss, WholeLoss, cross_entropy, frozen_head, likely_loss
from trials.training.neftune import EmbeddingNoise

VOCABULARY = 320
COMMON = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
IN_CHUNKS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"tie_word_embeddings": False}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "bias": ("phi", {}),
    "logit scale": ("cohere", {"logit_scale": 0.3}),
    "logits divided": ("granite", {"logits_scaling": 6.0}),
    # Takes `logits_to_keep`, and makes all logits.
    "makes all": ("xlstm", {"num_heads": 4, "num_blocks": 2, "embedding_dim": 64}),
}
WHOLE: dict[str, tuple[str, dict[str, Any]]] = {
    "soft cap": ("gemma2", {"final_logit_softcapping": 30.0}),
    "high soft cap": ("gemma2", {"final_logit_softcapping": 100.0}),
    "soft cap, makes all": ("xlstm", {"num_heads": 4, "num_blocks": 2, "embedding_dim": 64}),
}
KINDS = IN_CHUNKS | WHOLE
FLOAT32, BFLOAT16, FLOAT16 = torch.float32, torch.bfloat16, torch.float16


def made(kind: str) -> Any:
    model_type, own = KINDS[kind]
    known = AutoConfig.for_model(model_type).to_dict()
    common = {name: value for name, value in COMMON.items() if name in known}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **common | own))
    if kind == "makes all":
        vars(model.config)["output_logit_soft_cap"] = None
    if (head := model.get_output_embeddings()).bias is not None:
        torch.nn.init.normal_(head.bias)
    return model


def on_base(model: Any, dtype: torch.dtype = FLOAT32) -> TransformersBase:
    model = model.to(dtype).requires_grad_(False).eval()
    base = TransformersBase(model, torch.device("cpu"), dtype)
    if isinstance(base._loss, ChunkedLoss):  # five targets at a time
        base._loss = replace(base._loss, most_logits=5 * VOCABULARY)
    return base


def config(**changes: Any) -> TrialConfig:
    return replace(make_config(), rank=4, dropout=0.0, target_modules="all-linear", **changes)


def trained(base: TransformersBase, **changes: Any) -> Any:
    """An adapter that has learnt something."""
    model = base.add_adapter(config(**changes)).train()
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def rows(*lengths: int) -> Batch:
    """Of each row a third is a prompt."""
    chance = torch.Generator().manual_seed(2)
    made = []
    for n in lengths:
        ids = torch.randint(3, VOCABULARY, (n,), generator=chance)
        labels = torch.where(torch.arange(n) < n // 3, IGNORED, ids)
        made.append({"input_ids": ids, "labels": labels})
    return collate(made)


UNEVEN = rows(31, 7, 3, 5, 4, 3)


def of_whole_logits(base: TransformersBase) -> None:
    base._loss = WholeLoss()


def step(
    base: TransformersBase, model: Any, batch: Batch, scale: float = 1.0
) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor, Any]:
    """The loss, gradients, losses of rows, and how many tokens of each are the first choice."""
    model.zero_grad()
    nll = base.nll_sum(model, batch)
    torch.autograd.backward(nll * scale)
    gradients = [p.grad / scale for p in model.parameters() if p.grad is not None]
    with torch.no_grad():
        of_rows, correct = base.nll_rows(model, batch, counts_correct=True)
    assert correct is not None
    return nll.detach(), gradients, of_rows, correct.tolist()


def assert_equal(found: Any, wanted: Any, rel: float) -> None:
    assert float(found[0]) == pytest.approx(float(wanted[0]), rel=rel)
    assert found[2].tolist() == pytest.approx(wanted[2].tolist(), rel=rel)
    ours, theirs = (torch.cat([one.flatten() for one in each[1]]) for each in (found, wanted))
    assert (ours - theirs).norm() <= rel * theirs.norm()


def beside_whole(base: TransformersBase, model: Any, batch: Batch, **more: Any) -> Any:
    found = step(base, model, batch, **more)
    of_whole_logits(base)
    return found, step(base, model, batch, **more)


@pytest.mark.parametrize("kind", IN_CHUNKS)
def test_losses_and_gradients_are_those_of_whole_logits(kind: str) -> None:
    base = on_base(made(kind))
    assert isinstance(base._loss, ChunkedLoss)
    found, wanted = beside_whole(base, trained(base), UNEVEN)
    assert_equal(found, wanted, 1e-6)
    assert found[3] == wanted[3]
    base.remove_adapter()  # raises where anything is left


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=str)
def test_what_caps_its_logits_has_its_own_loss(kind: str, dtype: torch.dtype) -> None:
    base = on_base(made(kind), dtype)
    assert type(base._loss) is WholeLoss
    ids = rows(9)["input_ids"]
    with torch.no_grad(), base._autocast():
        own = base.model(input_ids=ids, labels=ids, use_cache=False).loss
        found = base.nll_sum(base.model, {**rows(9), "labels": ids})
    assert float(found) == pytest.approx(8 * float(own), rel=1e-5 if dtype is FLOAT32 else 1e-2)


@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT16], ids=str)
@pytest.mark.parametrize("kind", ["llama", "bias", "logit scale"])
def test_in_16_bits_they_are_equal_to_rounding(kind: str, dtype: torch.dtype) -> None:
    base = on_base(made(kind), dtype)
    assert isinstance(base._loss, ChunkedLoss)
    found, wanted = beside_whole(base, trained(base), UNEVEN, scale=0.37)
    assert_equal(found, wanted, 2e-2)


def test_in_float16_small_probabilities_keep_their_gradients() -> None:
    """Without a scale of its own, what is below 6e-8 would be 0: here nearly all."""
    model = made("llama").to(FLOAT16).requires_grad_(False)
    head = model.get_output_embeddings()
    torch.nn.init.constant_(head.weight, 0.0)
    head.weight[:, 0] = 30.0
    head.weight[1, 0] = 47.0
    head.weight[2:, 1] = 8.0
    hidden = torch.zeros(4, 64, dtype=FLOAT16)
    hidden[:, 0] = 1.0
    targets = torch.ones(4, dtype=torch.long)
    found = [gradient_of(loss, model, hidden, targets) for loss in (chunked(model), WholeLoss())]
    assert float(found[1][0, 1]) > 0
    assert (found[0] - found[1]).norm() <= 1e-2 * found[1].norm()


def chunked(model: Any) -> ChunkedLoss:
    return ChunkedLoss(model.get_output_embeddings(), model.dtype, cross_entropy)


def gradient_of(loss: Any, model: Any, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    given = hidden.clone().requires_grad_()
    nll = loss.sum(lambda: (model.get_output_embeddings()(given), targets))
    torch.autograd.backward(nll * 2.0**10)
    assert given.grad is not None
    return given.grad.float()


def test_packed_rows_and_recomputed_layers() -> None:
    base = on_base(made("llama"))
    assert base._cost is not None
    base._cost = replace(base._cost, linear_weights=10**12)  # as a large model would
    assert base._packs(UNEVEN)
    model = trained(base)
    plain = step(base, model, UNEVEN)
    base.recompute_activations()
    found, wanted = beside_whole(base, model, UNEVEN)
    assert_equal(found, wanted, 1e-6)
    assert_equal(found, plain, 1e-6)
    base.remove_adapter()


@pytest.mark.parametrize("kind", KINDS)
def test_the_estimate_of_memory_takes_the_loss_that_a_worker_takes(kind: str) -> None:
    model = made(kind)
    base = on_base(model)
    assert type(likely_loss(model)) is type(base._loss)
    whole = activation_bytes_per_token(model, WholeLoss())
    less = 0 if kind in WHOLE else 10 * VOCABULARY - 2 * 64
    assert base.activation_bytes_per_token == pytest.approx(whole - less)


@pytest.mark.parametrize("name", ["Chameleon", "Inkling"])
def test_the_estimate_knows_models_that_mask_logits_or_leave_some_out(name: str) -> None:
    model_class = getattr(transformers, f"{name}ForConditionalGeneration")
    model = made("llama")
    model.__class__ = type("Own", (type(model),), {"forward": model_class.forward})
    assert type(likely_loss(model)) is WholeLoss


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most numbers that a tensor has."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else (found,):
            if isinstance(tensor, torch.Tensor):
                self.most = max(self.most, tensor.numel())
        return found


@pytest.mark.parametrize("kind", ["llama", "makes all"])
def test_the_logits_of_all_targets_are_never_there_at_once(kind: str) -> None:
    base = on_base(made(kind))
    batch = rows(100, 100)
    model = trained(base)
    with Largest() as seen:
        step(base, model, batch)
    assert seen.most < 134 * VOCABULARY
    of_whole_logits(base)
    with Largest() as seen:
        step(base, model, batch)
    assert seen.most >= 134 * VOCABULARY


def test_no_targets_have_no_loss() -> None:
    base = on_base(made("llama"))
    batch = rows(5)
    batch["labels"][:] = IGNORED
    model = trained(base)
    found, wanted = beside_whole(base, model, batch)
    assert float(found[0]) == float(wanted[0]) == 0.0


def own_code(change: Callable[[Any], Any]) -> Any:
    """A Llama whose own code does something else with its logits."""
    model = made("llama")
    plain = model.forward

    def forward(*args: Any, **named: Any) -> Any:
        output = plain(*args, **named)
        output.logits = change(output.logits)
        return output

    model.forward = forward
    return model


def masked(logits: torch.Tensor) -> torch.Tensor:
    logits = logits.clone()
    logits[..., 300:] = -1e4
    return logits


@pytest.mark.parametrize(
    "change",
    [masked, lambda x: x + 1.0 * torch.arange(x.shape[-1]), lambda x: x.clamp(-20, 20), torch.tanh],
    ids=["mask", "offset", "clamp", "tanh"],
)
def test_what_its_code_does_to_logits_is_found(change: Callable[[Any], Any]) -> None:
    assert type(on_base(own_code(change))._loss) is WholeLoss


def one_masked(logits: torch.Tensor) -> torch.Tensor:
    """As Chameleon does; on a GPU an index that is too large ends the process."""
    assert logits.shape[-1] > 300, "hidden states"
    logits = logits.clone()
    logits[..., 300] = -1e4
    return logits


@pytest.mark.parametrize(
    "change", [one_masked, lambda x: x[..., : VOCABULARY - 1]], ids=["mask", "left out"]
)
def test_one_logit_that_is_masked_or_left_out_is_found_in_16_bits(
    change: Callable[[Any], Any],
) -> None:
    model = own_code(change)
    base = on_base(model, BFLOAT16)
    assert type(base._loss) is WholeLoss
    why = _why_not(model, chunked(model), lambda: base._logits(model, padded(rows(12, 12))))
    assert why == "some logits are masked or left out"


@pytest.mark.parametrize("in_training", [True, False])
def test_what_its_code_does_in_training_or_in_evaluation_alone_is_found(in_training: bool) -> None:
    model = own_code(lambda x: x.clamp(-20, 20) if model.training is in_training else x)
    assert type(on_base(model)._loss) is WholeLoss
    assert not model.training


def test_a_head_that_is_not_called_makes_its_own_logits() -> None:
    model = made("llama")
    head = model.get_output_embeddings()
    model.lm_head = torch.nn.Identity()
    plain = model.forward

    def forward(*args: Any, **named: Any) -> Any:
        output = plain(*args, **named)
        output.logits = torch.nn.functional.linear(output.logits, head.weight)
        return output

    model.forward, model.get_output_embeddings = forward, lambda: head
    assert type(on_base(model)._loss) is WholeLoss


def test_a_head_in_4_bits_makes_its_own_logits() -> None:
    from bitsandbytes.nn import Linear4bit

    model = made("llama").requires_grad_(False)
    head = Linear4bit(64, VOCABULARY, bias=False, compute_dtype=FLOAT32, quant_type="nf4")
    head.load_state_dict(model.lm_head.state_dict())
    model.lm_head = head.to("cpu")  # quantises it
    assert not head.weight.is_floating_point()
    assert frozen_head(model) is None


def test_a_base_in_4_bits_has_its_loss_in_chunks(tiny_base: Path) -> None:
    base = transformers_base(model_config(tiny_base))
    assert isinstance(base._loss, ChunkedLoss)
    base._loss = replace(base._loss, most_logits=5 * len(base._loss.head.weight))
    batch = rows(31, 7, 3)
    batch["input_ids"].remainder_(60)
    batch["labels"].copy_(torch.where(batch["labels"] == IGNORED, IGNORED, batch["input_ids"]))
    found, wanted = beside_whole(base, trained(base), batch)
    assert_equal(found, wanted, 2e-2)
    base.remove_adapter()


@pytest.mark.skipif(find_spec("liger_kernel") is not None, reason="Liger is installed")
def test_where_liger_does_not_work_the_reason_is_known() -> None:
    model = made("llama").requires_grad_(False)
    loss = ChunkedLoss(model.get_output_embeddings(), FLOAT32, liger_cross_entropy)
    ids = rows(12, 12)["input_ids"]

    def forward() -> tuple[torch.Tensor, torch.Tensor]:
        return model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()

    assert "No module named" in str(_why_not(model, loss, forward))


def test_the_proof_leaves_nothing_on_the_head() -> None:
    model = made("llama").requires_grad_(False).eval()
    clean = Proof(model)
    head = model.get_output_embeddings()
    before = copy.copy(vars(head))
    TransformersBase(model, torch.device("cpu"), FLOAT32)
    clean.check(model)
    assert vars(head).keys() == before.keys()


def test_noise_on_embeddings_is_in_the_loss() -> None:
    base = on_base(made("llama"))
    model = trained(base)
    noise = EmbeddingNoise(base.model, 5.0)

    def noisy() -> Any:
        torch.manual_seed(3)
        noise.expect(UNEVEN["attention_mask"])
        return step(base, model, UNEVEN)

    found = noisy()
    of_whole_logits(base)
    assert_equal(found, noisy(), 1e-6)
    noise.remove()
    base.remove_adapter()
