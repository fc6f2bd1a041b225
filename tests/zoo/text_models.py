"""Architectures of text models that people fine-tune: a layer or two of each kind."""

from __future__ import annotations

from collections.abc import Mapping

from tests.zoo.tiny_config import VOCABULARY, Architecture, bare, text_model

TIED = {"tie_word_embeddings": True}
SLIDING = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
TWO_KINDS = ["linear_attention", "full_attention"]
DELTA_NET = {
    "layer_types": TWO_KINDS,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
MAMBA2 = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 16,
}
LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "head_dim": 8,
    "num_key_value_heads": 4,
}
ONE_GROUP = {"n_group": 1, "topk_group": 1}
SHARED = {**ONE_GROUP, "n_shared_experts": 1, "first_k_dense_replace": 1}
DEEPSEEK = {**LATENT, **SHARED}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}
SCALED = {"embedding_multiplier": 12.0, "logits_scaling": 0.5, "residual_multiplier": 0.22}
GRANITE = {**SCALED, "attention_multiplier": 0.25, **TIED}
LLAMA4 = {
    "intermediate_size_mlp": 128,
    "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 2,
    "moe_layers": [1],
    "attention_chunk_size": 16,
    "no_rope_layers": [1, 0],
    "layer_types": ["chunked_attention", "full_attention"],
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 1e4,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MISTRAL_ROPE = {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}
GEMMA4 = {
    **TIED,
    **SLIDING,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 16,
    "global_head_dim": 16,
}
GEMMA3N = {
    **TIED,
    "num_hidden_layers": 4,
    "sliding_window": 16,
    "layer_types": SLIDING["layer_types"] * 2,  # type: ignore[operator]
    "intermediate_size": [128] * 4,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 16,
    "num_kv_shared_layers": 2,
    "laurel_rank": 8,
    "activation_sparsity_pattern": [0.5, 0.5, 0.0, 0.0],
}
MINISTRAL3 = text_model("ministral3", rope_parameters=MISTRAL_ROPE)


TEXT_MODELS: Mapping[str, Architecture] = {
    # Llama and its like: dense, with attention to all or to a window.
    "llama": text_model("llama", rope_parameters=LLAMA3_ROPE, **TIED),
    "mistral": text_model("mistral", sliding_window=16),
    "ministral": text_model("ministral", **SLIDING),
    "ministral3": MINISTRAL3,
    "qwen2": text_model("qwen2", **TIED),
    "qwen3": text_model("qwen3"),
    "gemma": text_model("gemma", **TIED),
    "gemma2": text_model(
        "gemma2",
        query_pre_attn_scalar=16,
        final_logit_softcapping=3.0,
        attn_logit_softcapping=5.0,
        **SLIDING,
        **TIED,
    ),
    "gemma3_text": text_model("gemma3_text", query_pre_attn_scalar=16, **SLIDING, **TIED),
    "gemma3n_text": text_model("gemma3n_text", **GEMMA3N),
    "gemma4_text": text_model("gemma4_text", **GEMMA4),
    "vaultgemma": text_model("vaultgemma", query_pre_attn_scalar=16, **SLIDING, **TIED),
    "phi": text_model("phi", partial_rotary_factor=0.5),
    "phi3": text_model("phi3"),
    "glm": text_model("glm"),
    "glm4": text_model("glm4"),
    "olmo": text_model("olmo"),
    "olmo2": text_model("olmo2"),
    "olmo3": text_model("olmo3", **SLIDING),
    "granite": text_model("granite", **GRANITE),
    "smollm3": text_model(
        "smollm3", no_rope_layers=[1, 0], layer_types=["full_attention"] * 2, **TIED
    ),
    "stablelm": text_model("stablelm", partial_rotary_factor=0.25),
    "starcoder2": text_model("starcoder2", sliding_window=16, **TIED),
    "cohere": text_model("cohere", logit_scale=2.0, **TIED),
    "cohere2": text_model("cohere2", logit_scale=2.0, **SLIDING, **TIED),
    "nemotron": text_model("nemotron"),
    "exaone4": text_model("exaone4", **SLIDING),
    "hunyuan_v1_dense": text_model("hunyuan_v1_dense"),
    "ernie4_5": text_model("ernie4_5"),
    "seed_oss": text_model("seed_oss"),
    "apertus": text_model("apertus"),
    "arcee": text_model("arcee"),
    "helium": text_model("helium"),
    "cwm": text_model("cwm", **SLIDING),
    "jais2": text_model("jais2"),
    "nanochat": text_model("nanochat"),
    "bitnet": text_model("bitnet"),
    "minicpm3": text_model("minicpm3", **LATENT),
    "youtu": text_model("youtu", **LATENT),
    # Older ones, with other names for the same layers.
    "gpt2": bare("gpt2", **GPT2, **TIED),
    "gpt_bigcode": bare("gpt_bigcode", **GPT2, **TIED),
    "gptj": bare("gptj", rotary_dim=8, **GPT2),
    "codegen": bare("codegen", rotary_dim=8, **GPT2),
    "gpt_neo": text_model(
        "gpt_neo",
        attention_types=[[["global", "local"], 1]],
        num_layers=2,
        num_heads=4,
        window_size=16,
        **TIED,
    ),
    "gpt_neox": text_model("gpt_neox"),
    "opt": text_model("opt", ffn_dim=128, word_embed_proj_dim=64, init_std=0.1, **TIED),
    "xglm": text_model("xglm", ffn_dim=128, attention_heads=4, d_model=64, num_layers=2, **TIED),
    "biogpt": text_model("biogpt", **TIED),
    "persimmon": text_model("persimmon"),
    "bloom": bare("bloom", hidden_size=64, n_layer=2, n_head=4, **TIED),
    "falcon": text_model(
        "falcon", new_decoder_architecture=True, num_kv_heads=2, alibi=False, **TIED
    ),
    "falcon_alibi": text_model(
        "falcon", alibi=True, multi_query=False, parallel_attn=False, **TIED
    ),
    "mpt": bare("mpt", d_model=64, n_heads=4, n_layers=2, max_seq_len=256, **TIED),
    # Experts that a router chooses.
    "mixtral": text_model("mixtral"),
    "qwen2_moe": text_model("qwen2_moe"),
    "qwen3_moe": text_model("qwen3_moe"),
    "deepseek_v2": text_model("deepseek_v2", topk_method="greedy", **DEEPSEEK),
    "deepseek_v3": text_model("deepseek_v3", **DEEPSEEK),
    "mistral4": text_model(
        "mistral4", rope_parameters={**MISTRAL_ROPE, "partial_rotary_factor": 0.33}, **DEEPSEEK
    ),
    "glm4_moe": text_model("glm4_moe", **SHARED),
    "glm4_moe_lite": text_model(
        "glm4_moe_lite",
        mlp_layer_types=["dense", "sparse"],
        n_shared_experts=1,
        **LATENT,
        **ONE_GROUP,
    ),
    "gpt_oss": text_model("gpt_oss", rope_parameters={**YARN, "truncate": False}, **SLIDING),
    "phimoe": text_model("phimoe"),
    "olmoe": text_model("olmoe"),
    "flex_olmo": text_model("flex_olmo"),
    "granitemoe": text_model("granitemoe", intermediate_size=32, logits_scaling=0.5),
    "granitemoeshared": text_model(
        "granitemoeshared", intermediate_size=32, shared_intermediate_size=32, logits_scaling=0.5
    ),
    "hunyuan_v1_moe": text_model("hunyuan_v1_moe", moe_topk=2),
    "minimax_m2": text_model("minimax_m2"),
    "ernie4_5_moe": text_model(
        "ernie4_5_moe",
        moe_num_experts=4,
        moe_k=2,
        moe_num_shared_experts=1,
        moe_layer_start_index=1,
    ),
    "dots1": text_model("dots1", layer_types=["full_attention"] * 2, **SHARED),
    "llama4_text": text_model("llama4_text", floor_scale=8, **LLAMA4),
    "jetmoe": text_model("jetmoe", kv_channels=16, num_key_value_heads=2),
    "exaone_moe": text_model(
        "exaone_moe",
        mlp_layer_types=["dense", "sparse"],
        num_shared_experts=1,
        **ONE_GROUP,
        **SLIDING,
    ),
    "solar_open": text_model("solar_open", n_shared_experts=1, **ONE_GROUP),
    "afmoe": text_model("afmoe", num_dense_layers=1, num_shared_experts=1, **SLIDING),
    # States beside attention, or instead of it.
    "qwen3_next": text_model("qwen3_next", **DELTA_NET),
    "qwen3_5_text": text_model("qwen3_5_text", **DELTA_NET),
    "qwen3_5_moe_text": text_model("qwen3_5_moe_text", **DELTA_NET),
    "olmo_hybrid": text_model("olmo_hybrid", **DELTA_NET),
    "kimi_linear": text_model(
        "kimi_linear",
        **{**DEEPSEEK, "q_lora_rank": None},
        layer_types=TWO_KINDS,
        linear_head_dim=16,
        linear_num_heads=4,
        mlp_layer_types=["dense", "sparse"],
        num_experts_per_token=2,
        num_expert_group=1,
    ),
    "minimax": text_model("minimax", layer_types=TWO_KINDS, block_size=16),
    "granitemoehybrid": text_model(
        "granitemoehybrid",
        **MAMBA2,
        **GRANITE,
        intermediate_size=32,
        shared_intermediate_size=32,
        layer_types=TWO_KINDS,
        position_embedding_type="nope",
    ),
    "falcon_h1": text_model(
        "falcon_h1", mamba_d_ssm=128, lm_head_multiplier=0.5, embedding_multiplier=3.0, **MAMBA2
    ),
    "bamba": text_model("bamba", attn_layer_indices=[1], **MAMBA2),
    "nemotron_h": text_model(
        "nemotron_h",
        layers_block_type=["linear_attention", "mlp", "full_attention", "moe"],
        num_hidden_layers=None,
        ssm_state_size=16,
        mamba_num_heads=8,
        mamba_head_dim=16,
        n_groups=1,
        chunk_size=16,
        moe_shared_expert_intermediate_size=32,
    ),
    "jamba": text_model(
        "jamba",
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        mamba_d_state=8,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
    ),
    "zamba2": text_model(
        "zamba2",
        **MAMBA2,
        num_hidden_layers=4,
        mamba_ngroups=1,
        n_mamba_heads=8,
        mamba_headdim=16,
        chunk_size=16,
        layers_block_type=["mamba", "hybrid"] * 2,
        num_mem_blocks=1,
        adapter_rank=8,
        use_mem_rope=True,
        attention_head_dim=32,
        attention_hidden_size=128,
        num_key_value_heads=4,
    ),
    "recurrent_gemma": text_model(
        "recurrent_gemma",
        num_hidden_layers=3,
        lru_width=64,
        attention_window_size=16,
        block_types=["recurrent", "recurrent", "attention"],
        **TIED,
    ),
    "lfm2": text_model(
        "lfm2", block_auto_adjust_ff_dim=False, layer_types=["conv", "full_attention"], **TIED
    ),
    "lfm2_moe": text_model(
        "lfm2_moe", num_dense_layers=1, layer_types=["conv", "full_attention"], **TIED
    ),
    "mamba": text_model("mamba", state_size=8, time_step_rank=4),
    "mamba2": text_model("mamba2", num_heads=8, state_size=16, n_groups=1, chunk_size=16),
    "falcon_mamba": text_model("falcon_mamba", state_size=8, time_step_rank=4),
    "xlstm": text_model("xlstm", num_heads=4, num_blocks=2, embedding_dim=64),
    "rwkv": text_model("rwkv", attention_hidden_size=64, context_length=256),
}
