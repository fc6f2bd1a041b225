"""The parts in their order: what is most likely to fail first, what is timed alone on the card."""

from __future__ import annotations

from tests.gpu.script.runner import Part


def _part(name: str, function: str, seconds: float) -> Part:
    return Part(name, f"tests.gpu.script.{function}", seconds, "unsloth" in name)


GROUPS: tuple[tuple[Part, ...], ...] = (
    (_part("versions", "versions:versions", 30), _part("models", "llama:make_all", 50)),
    (
        _part("unsloth-nf4", "trials_at_width:unsloth_nf4", 105),
        _part("pytest-unsloth", "versions:tests_of_unsloth", 105),
        _part("transformers-nf4", "trials_at_width:transformers_nf4", 105),
        _part("transformers-int8", "trials_at_width:transformers_int8", 105),
        _part("transformers-none", "trials_at_width:transformers_none", 105),
        _part("out-of-memory", "memory:out_of_memory", 105),
        _part("pytest-processes", "versions:tests_with_processes", 105),
        _part("pytest-rest", "versions:other_tests", 105),
    ),
    (_part("speed-8b", "speed:at_8b", 45),),
    (_part("speed-smollm2", "speed:at_smollm2", 45),),
    (_part("trl", "trl_side:trl", 40),),
    (
        _part("unsloth-none", "trials_at_width:unsloth_none", 65),
        _part("attention", "attention:attention", 65),
        _part("float16", "odd:float16", 65),
        _part("float16-unsloth", "odd:float16_with_unsloth", 65),
        _part("qwen3-moe-gemma4", "odd:odd_models", 65),
        _part("cache-of-two", "shared_card:cache_of_two", 65),
        _part("half-a-gpu", "shared_card:half_a_gpu", 65),
    ),
    (_part("backends", "trials_at_width:backends", 10),),
)


def longest_seconds(groups: tuple[tuple[Part, ...], ...] = GROUPS) -> float:
    """What all parts may take where those of a group run at once."""
    return sum(max(part.seconds for part in group) for group in groups)
