"""The learning rate's schedules by transformers' names; torch is not needed to know them."""

from __future__ import annotations

SCHEDULERS = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant_with_warmup",
    "warmup_stable_decay": "warmup_stable_decay",
}
DECAY_SHARE = 0.2
"""Share of the steps in which warmup_stable_decay falls (Hägele et al., 2024: 10 to 20 %)."""
