"""What vLLM would not load of an adapter, or load otherwise than it was trained.

Read in the source of vLLM 0.33.0. Its files are named where a fact is from them.
"""

from collections.abc import Collection, Iterator

VLLM = "vLLM 0.33"

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""config/lora.py, MaxLoRARanks: what `--max-lora-rank` takes; 16 is its default."""
MAX_RANK = RANKS[-1]

# Of transformers' model types those whose class in model_executor/models/registry.py does not
# inherit SupportsLoRA (config/lora.py, verify_with_model_config).
NO_ADAPTERS = frozenset(
    "aria bloom cohere2_moe cohere2_vision dbrx falcon falcon_mamba gemma3n gemma3n_text gpt2 "
    "gptj hrm_text kimi_linear llava_onevision mamba mamba2 mimo_v2_flash paddleocr_vl stablelm "
    "zamba2".split()
)

# Not in that registry, and not for vLLM's transformers backend (_try_resolve_transformers: their
# attention cannot be set).
NOT_SERVED = frozenset("codegen gpt_neo gpt_neox_japanese mpt openai-gpt rwkv xglm".split())

# `is_3d_moe_weight` of their classes (gpt_oss.py, qwen3_vl_moe.py; in qwen3_5.py only that of the
# wrapper): they take the stacked experts that peft writes.
STACKED_EXPERTS = frozenset({"gpt_oss", "qwen3_5_moe", "qwen3_vl_moe"})

# Their experts are block_sparse_moe.experts in vLLM (mixtral.py, phimoe.py, minimax_m2.py) and
# mlp.experts in transformers 5; model_manager.py, activate_adapter, skips what it does not find.
OTHER_EXPERT_NAMES = frozenset({"mixtral", "phimoe", "minimax_m2"})


def max_rank(rank: int) -> int:
    """Return the `--max-lora-rank` of an adapter that is loaded."""
    return next(allowed for allowed in RANKS if allowed >= rank)


def notes(
    model_type: str,
    modules: Collection[str],
    parameters: Collection[str],
    *,
    rank: int,
    use_dora: bool,
) -> list[str]:
    """Say it in short sentences; empty where nothing is known against the adapter.

    Args:
        model_type: The outer one of config.json: of a vision wrapper, not of its text part.
        modules: Names of the adapted modules, dotted or not.
        parameters: Names of the adapted experts' weights.
        rank: The largest.
        use_dora: Whether a trial may have it.
    """
    if model_type in NOT_SERVED:
        return [f"{VLLM} does not serve {model_type}."]
    if model_type in NO_ADAPTERS:
        return [f"{VLLM}'s own {model_type} takes no adapter: use `sweep export --merge`."]
    return [
        *_of_settings(rank, use_dora),
        *_of_modules(model_type, modules),
        *_of_experts(model_type, parameters),
    ]


def _of_settings(rank: int, use_dora: bool) -> Iterator[str]:
    if use_dora:  # lora/peft_helper.py, _validate_features
        yield f"{VLLM} loads no adapter with use_dora: use `sweep export --merge`."
    if rank > MAX_RANK:
        yield f"{VLLM} loads no adapter of a rank above {MAX_RANK}, as {rank} is."


def _of_modules(model_type: str, modules: Collection[str]) -> Iterator[str]:
    # layers/attention/mla_attention.py: split_kv_b_proj makes W_UK and W_UV of the base's weight
    # when the model is loaded, and decoding reads those. minicpm3.py does not.
    if model_type != "minicpm3" and any(_leaf(name) == "kv_b_proj" for name in modules):
        yield (
            f"{VLLM} leaves the adapter of kv_b_proj out when it generates: it folds the base's "
            f"weight into attention. Use `sweep export --merge`."
        )


def _of_experts(model_type: str, parameters: Collection[str]) -> Iterator[str]:
    if not parameters:
        return
    if model_type in OTHER_EXPERT_NAMES:
        yield (
            f"{VLLM} leaves the routed experts' adapter out without a word: it names them "
            f"otherwise; use `sweep export --merge`."
        )
    elif model_type == "nemotron_h":
        # lora/model_manager.py, _convert_3d_to_2d_moe_lora, takes up_proj for gate and up.
        yield f"{VLLM} does not load the routed experts' adapter: use `sweep export --merge`."
    elif len({_leaf(name) for name in parameters}) < 2:
        # lora/model_manager.py, _stack_moe_lora_weights: both, or an assertion.
        yield f"{VLLM} loads routed experts only where gate_up_proj and down_proj are both trained."
    elif model_type not in STACKED_EXPERTS:
        # lora/model_manager.py, _validate_moe_lora_format
        yield (
            f"{VLLM} loads the routed experts' adapter only with --enable-mixed-moe-lora-format, "
            f"and is_3d_lora_weight: true on the request."
        )


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]
