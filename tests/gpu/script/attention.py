"""Rows end to end beside rows padded side by side, with each kind of attention that is here."""

from __future__ import annotations

import time
from typing import Any

from tests.gpu.script.bench import Bench, loaded, model_config, trial_config
from tests.gpu.script.internals import can_pack, kinds_of_attention, rows_lie, with_attention
from tests.gpu.script.llama import WIDE, folder_of, longest_row, write_rows
from trials.models.frozen_base import FrozenBase

N_ROWS = 8
N_TIMED = 5


def attention(bench: Bench) -> None:
    """Losses and gradients must be equal to rounding; the time is beside them."""
    import torch

    from trials.data.batches import collate
    from trials.data.tokens import TokenRows

    model = model_config(
        folder_of(bench, WIDE), "transformers", "none", max_length=longest_row(bench)
    )
    base = loaded(bench, model)
    bench.found.figure("chosen", base.model.config._attn_implementation)
    rows = TokenRows(write_rows(bench) / "train", model.max_length)
    batch = collate([rows[index] for index in range(N_ROWS)])
    if bench.has_gpu:
        batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
    known: list[float] | None = None
    for name, kind in kinds_of_attention().items():
        if kind is None:
            bench.found.note(f"{name} is not here")
            continue
        try:
            of_kind = with_attention(base, kind)
        except (ImportError, ValueError, RuntimeError) as error:
            bench.found.wrong(f"{name}: {type(error).__name__}: {error}"[:300])
            continue
        adapted = of_kind.add_adapter(trial_config(bench, 0, model, bench.work))
        adapted.train()
        # Half of B's entries: with B zero, A has no gradient, and nothing goes through it.
        with torch.no_grad():
            for parameter_name, parameter in adapted.named_parameters():
                if "lora_B" in parameter_name:
                    parameter.fill_(1e-3)
        for packed in (False, True):
            if packed and not can_pack(of_kind):
                bench.found.note(f"{name}: rows end to end see each other, so they are padded")
                continue
            with rows_lie(of_kind, packed=packed):
                found, milliseconds = passes(of_kind, adapted, batch, bench.has_gpu)
            label = f"{name}, {'packed' if packed else 'padded'}"
            bench.found.figure(f"{label}, ms", round(milliseconds, 1))
            bench.found.figure(f"{label}, nats and norm", found)
            known = known or found
            bench.found.expect_equal(found, known, within=2e-2, of=label)
        of_kind.remove_adapter()


def passes(base: FrozenBase, adapted: Any, batch: Any, on_gpu: bool) -> tuple[list[float], float]:
    """Go forward and backward; return the loss and the gradients' norm, and the time of a pass."""
    import torch

    def once() -> torch.Tensor:
        adapted.zero_grad()
        nll = base.nll_sum(adapted, batch)
        torch.autograd.backward(nll)
        return nll.detach()

    nll = once()  # what is made once is made
    gradients = [p.grad for p in adapted.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    found = [float(nll), float(norm)]
    began = time.perf_counter()
    for _ in range(N_TIMED):
        once()
    if on_gpu:
        torch.cuda.synchronize()
    adapted.zero_grad()
    return found, (time.perf_counter() - began) / N_TIMED * 1000
