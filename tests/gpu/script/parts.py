"""The parts in their order: what is most likely to fail first, what is timed alone on the card."""

from __future__ import annotations

from tests.gpu.script.runner import Part


def _part(name: str, function: str, seconds: float) -> Part:
    return Part(name, f"tests.gpu.script.{function}", seconds, "unsloth" in name)


GROUPS: tuple[tuple[Part, ...], ...] = (
    (_part("versions", "versions:versions", 40), _part("models", "llama:make_all", 40)),
    (
        _part("unsloth-nf4", "trials_at_width:unsloth_nf4", 110),
        _part("unsloth-none", "trials_at_width:unsloth_none", 110),
        _part("pytest-unsloth", "gpu_tests:unsloth", 110),
        _part("pytest-unsloth-memory", "gpu_tests:unsloth_memory", 110),
        _part("pytest-unsloth-cache", "gpu_tests:unsloth_cache", 110),
        _part("transformers-nf4", "trials_at_width:transformers_nf4", 110),
        _part("transformers-int8", "trials_at_width:transformers_int8", 110),
        _part("transformers-none", "trials_at_width:transformers_none", 110),
        _part("out-of-memory", "memory:out_of_memory", 110),
        _part("pytest", "gpu_tests:others", 110),
        _part("pytest-base-loss", "gpu_tests:base_loss", 110),
        _part("pytest-cache", "gpu_tests:cache", 110),
    ),
    (_part("backends", "trials_at_width:backends", 8),),
    (_part("speed-8b", "speed:at_8b", 50),),
    (_part("speed-smollm2", "speed:at_smollm2", 55),),
    (_part("trl", "trl_side:trl", 45),),
    (
        _part("float16-unsloth", "odd:float16_with_unsloth", 50),
        _part("cache-of-two", "shared_card:cache_of_two", 50),
        _part("half-a-gpu", "shared_card:half_a_gpu", 50),
        _part("attention", "attention:attention", 50),
        _part("float16", "odd:float16", 50),
        _part("qwen3-moe-gemma4", "odd:odd_models", 50),
    ),
)


def longest_seconds(groups: tuple[tuple[Part, ...], ...] = GROUPS) -> float:
    """What all parts may take where those of a group run at once."""
    return sum(max(part.seconds for part in group) for group in groups)
