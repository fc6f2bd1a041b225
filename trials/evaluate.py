"""The eval loss: one number for all trials of a study, whatever fits into a batch."""

from __future__ import annotations

from typing import Any

import torch

from trials.base_model import FrozenBase
from trials.batches import collate, micro_batches, supervised_tokens
from trials.data import TokenRows
from trials.data_parallel import ALONE, Group


@torch.no_grad()
def eval_loss(
    base: FrozenBase, model: Any, rows: TokenRows, batch_size: int, group: Group = ALONE
) -> float:
    """Return the mean negative log-likelihood per supervised token of `rows`, in nats.

    Sums over all tokens and divides once, so that it does not depend on how rows are batched.
    A mean of batch means would weigh the tokens of short completions more.

    Args:
        group: Each of its processes takes its share of the rows.
    """
    was_training = model.training
    model.eval()
    try:
        order = rows.lengths.argsort(kind="stable")[::-1]
        sums = torch.zeros(2, dtype=torch.float64, device=base.device)  # nats, tokens
        n_tokens = 0
        for batch_rows in micro_batches(order[group.rank :: group.size], batch_size):
            batch = collate([rows[index] for index in batch_rows], pin=base.device.type == "cuda")
            n_tokens += supervised_tokens(batch)
            sums[0] += base.nll_sum(model, batch).double()
        sums[1] += n_tokens
        group.sum(sums)
        return float(sums[0]) / int(sums[1])
    finally:
        model.train(was_training)
