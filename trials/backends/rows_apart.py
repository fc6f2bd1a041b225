"""Whether a model keeps rows apart: only then may they lie end to end, or be padded on the left."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from trials.backends.packing import Batch, Layout, padded
from trials.data.tokens import IGNORED
from trials.models.shapes import carries_state

LENGTHS = ((31, 19), (31, 27), (17, 23))
"""Tokens of the two rows of each draw. Odd, so that no chunk or block ends where the first does."""

LEAK = 1e-3
"""By how much a token's logits may move, relative to their norm, when the row before is another.

Of 72 tiny models of as many architectures, in float32, bfloat16, nf4 and int8: at most 5e-7 where
rows stay apart (the experts' sums, in float32), at least 0.1 where they do not (Falcon-H1).
"""

ROUNDING = 0.2
"""How far a row's logits may be from those that it has alone, relative to their norm.

Of the same models: at most 0.06 (a router in bfloat16 that chooses other experts), at least 0.4
where a row alone is computed otherwise (Llama 4 at the border of a chunk).
"""

OFF = 0.1
"""How far a continued token's logits may be from those without padding, relative to their norm.

Of 13 tiny models in float32, bfloat16, nf4 and int8: at most 0.021 where padding is unseen. MiniMax
goes wrong only after the first token, by 0.17 and more.
"""

Logits = Callable[[Layout], torch.Tensor]
"""Makes the logits of a layout's targets, (targets, vocabulary)."""


def most_tokens(model: Any) -> float:
    """Return how many tokens a model takes end to end, however short the rows.

    GPT-Neo has its causal mask as a buffer, (1, 1, positions, positions); Llama 4 begins a new
    chunk of attention after so many tokens of all rows.
    """
    config = model.config.get_text_config()
    masks = [
        buffer.shape[-1]
        for buffer in model.buffers()
        if buffer.dim() >= 2 and buffer.shape[-1] == buffer.shape[-2] > 1
    ]
    chunk = getattr(config, "attention_chunk_size", None)
    return float(min([*masks, chunk or math.inf]))


@torch.no_grad()
def rows_stay_apart(model: Any, logits: Logits, packed: Callable[[Batch], Layout]) -> bool:
    """Whether rows end to end are computed as each is alone, shown on several draws of two rows.

    Other tokens in the first row must not move the second's logits; sums of losses would hide it.
    """
    if carries_state(model) or "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    if most_tokens(model) < max(map(sum, LENGTHS)):
        return False
    vocabulary = model.get_input_embeddings().num_embeddings
    chance = torch.Generator().manual_seed(0)  # its own: a trial's seed is not touched
    with _rows_in_8_bits_apart(model):
        for lengths in LENGTHS:
            first, second, other = (
                torch.randint(vocabulary, (n,), generator=chance) for n in (*lengths, lengths[0])
            )
            after_first = logits(packed(_batch(first, second))).float()
            after_other = logits(packed(_batch(other, second))).float()
            alone = logits(padded(_batch(second))).float()
            size = after_first.norm(dim=-1)
            moved = ((after_other - after_first).norm(dim=-1) / size).max()
            if not (moved < LEAK and (after_first - alone).norm() < ROUNDING * alone.norm()):
                return False
    return True


@torch.no_grad()
def padding_is_unseen(
    model: Any, continued: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> bool:
    """Whether a prompt is continued as it is alone when padding lies on its left, in a batch.

    A layer that carries a state may take the padding for the prompt's beginning.

    Args:
        continued: Makes the logits of new tokens, (tokens, vocabulary), which are always the same,
            from a prompt and its mask, (1, tokens).
    """
    vocabulary = model.get_input_embeddings().num_embeddings
    chance = torch.Generator().manual_seed(0)
    prompt, *paddings = (torch.randint(vocabulary, (n,), generator=chance) for n in (19, 12, 12, 0))
    with _rows_in_8_bits_apart(model):
        after_first, after_other, alone = (
            continued(torch.cat([padding, prompt])[None], _mask(len(padding), len(prompt))).float()
            for padding in paddings
        )
    size = alone.norm(dim=-1)
    moved, off = (((after_first - o).norm(dim=-1) / size).max() for o in (after_other, alone))
    return bool(moved < LEAK and off < OFF)


def _mask(padding: int, tokens: int) -> torch.Tensor:
    return torch.tensor([[0] * padding + [1] * tokens])


@torch.no_grad()
def sees_ahead(model: Any, logits: Logits) -> bool:
    """Whether tokens see those after them, as an encoder's do: what is learnt would be given away.

    Other tokens at the end of a row must not move the logits before them.
    """
    vocabulary = model.get_input_embeddings().num_embeddings
    chance = torch.Generator().manual_seed(0)
    first, *ends = (torch.randint(vocabulary, (15,), generator=chance) for _ in range(3))
    batches = [_batch(torch.cat([first, end])) for end in ends]
    for batch in batches:
        batch["labels"][:, len(first) :] = IGNORED
    with _rows_in_8_bits_apart(model):
        one, other = (logits(padded(batch)).float() for batch in batches)
    return bool(((one - other).norm(dim=-1) > LEAK * one.norm(dim=-1)).any())


def _batch(*rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """Rows of which the last alone has targets."""
    pad = torch.nn.utils.rnn.pad_sequence
    mask = pad([torch.ones_like(row) for row in rows], batch_first=True)
    ids = pad(list(rows), batch_first=True)
    labels = ids.masked_fill(mask == 0, IGNORED)
    labels[:-1] = IGNORED
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@contextlib.contextmanager
def _rows_in_8_bits_apart(model: torch.nn.Module) -> Iterator[None]:
    """Leave the outliers of 8-bit layers in 8 bits.

    LLM.int8() computes an input's column in 16 bits where any token has an outlier in it, so each
    row rounds as all rows of its batch would have it, packed or padded: up to 0.15, as a leak.
    """
    from bitsandbytes.nn import Linear8bitLt

    states = [layer.state for layer in model.modules() if isinstance(layer, Linear8bitLt)]
    thresholds = [state.threshold for state in states]
    try:
        for state in states:
            state.threshold = 0.0
        yield
    finally:
        for state, threshold in zip(states, thresholds, strict=True):
            state.threshold = threshold
