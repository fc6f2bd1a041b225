"""Names a space may use: kinds of modules, and learning rate schedules."""

from collections.abc import Mapping

TARGET_MODULES: Mapping[str, str | list[str]] = {
    # Names of Llama, Mistral, Qwen, Gemma and SmolLM; the packed ones are those of Phi-3 and later.
    "all-linear": "all-linear",
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj"],
    "mlp": ["gate_proj", "up_proj", "down_proj", "gate_up_proj"],
    "qv": ["q_proj", "v_proj", "qkv_proj"],
}


SCHEDULERS = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant_with_warmup",
    "warmup_stable_decay": "warmup_stable_decay",
}
DECAY_SHARE = 0.2
"""Share of the steps in which warmup_stable_decay falls (Hägele et al., 2024: 10 to 20 %)."""
