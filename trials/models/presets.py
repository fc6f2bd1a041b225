"""Names a space may use of learning rate schedules; of modules, as earlier versions meant them."""

from collections.abc import Mapping

EARLIER_TARGETS: Mapping[str, str | list[str]] = {
    "all-linear": "all-linear",
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj"],
    "mlp": ["gate_proj", "up_proj", "down_proj", "gate_up_proj"],
    "qv": ["q_proj", "v_proj", "qkv_proj"],
}
"""What peft was given for each preset, before a model's own modules decided what it means."""


SCHEDULERS = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant_with_warmup",
    "warmup_stable_decay": "warmup_stable_decay",
}
DECAY_SHARE = 0.2
"""Share of the steps in which warmup_stable_decay falls (Hägele et al., 2024: 10 to 20 %)."""
