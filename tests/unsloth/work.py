"""Unsloth's backend on a fake GPU: `python -m tests.unsloth.work < configs` prints a line a trial.

In a process of its own, and in an environment of its own: it needs unsloth and triton. The
configurations are pickled; the lines are JSON.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.unsloth.fake_cuda import FakeGpu
from trials.config import EvalPoint, TrialConfig

if TYPE_CHECKING:
    import torch

    from trials.backends.unsloth_qlora import UnslothBase


def main() -> None:
    plain, recomputing, again = pickle.load(sys.stdin.buffer)
    base = load(plain)
    for config in (plain, recomputing, again):
        print(json.dumps(trial(base, config, recomputes=config is recomputing)), flush=True)
    kept = gradients(base, plain, recomputes=False)
    for is_armed in (True, False):
        if not is_armed:
            disarm(base.model)
        computed_again = gradients(base, plain, recomputes=True)
        difference = float((computed_again - kept).abs().max())
        print(json.dumps({"armed": is_armed, "norm": float(kept.norm()), "difference": difference}))


def load(config: TrialConfig) -> UnslothBase:
    from trials.backends import loading, unsloth_qlora

    base = loading.load(config.model)
    assert isinstance(base, unsloth_qlora.UnslothBase)
    return base


def trial(base: UnslothBase, config: TrialConfig, *, recomputes: bool) -> dict[str, Any]:
    from trials.memory.micro_batches import Attempt, MicroBatchMemory
    from trials.training.train import run_trial

    points: list[EvalPoint] = []
    memory = MicroBatchMemory()
    if recomputes:
        memory.did_not_fit(config, Attempt(1, gradient_checkpointing=False))
    Path(config.output_dir).mkdir(parents=True)
    result = run_trial(config, base, memory, points.append)
    return {
        "outcome": result.outcome,
        "reason": result.reason,
        "recomputes": result.gradient_checkpointing,
        "losses": [point.eval_loss for point in points],
        "hooks": len(base.model.get_input_embeddings()._forward_hooks),
    }


def gradients(base: UnslothBase, config: TrialConfig, *, recomputes: bool) -> torch.Tensor:
    """Of a batch, with respect to an adapter that changes what the base computes."""
    import torch

    from trials.data.batches import collate
    from trials.data.tokens import TokenRows

    rows = TokenRows(Path(config.data_dir) / "train", config.max_length)
    adapted = base.add_adapter(config).train()
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    torch.manual_seed(0)
    for parameter in trained:
        torch.nn.init.normal_(parameter, std=0.05)
    if recomputes:
        base.recompute_activations()
    torch.autograd.backward(base.nll_sum(adapted, collate([rows[i] for i in range(4)])))
    found = torch.cat([parameter.grad.flatten() for parameter in trained])
    del adapted, trained
    base.remove_adapter()
    return found


def disarm(model: Any) -> None:
    """Take the layers' function for checkpointing away: Unsloth loads them without it."""
    for module in model.modules():
        if hasattr(module, "_gradient_checkpointing_func"):
            module._gradient_checkpointing_func = None


if __name__ == "__main__":
    with FakeGpu():
        main()
