"""Keys of other trainers and tuners: what they are called here, or why they are not.

Axolotl, LLaMA-Factory, TRL with transformers, peft and Unsloth; W&B sweeps, Ray Tune and Optuna.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase

CALLED_ELSEWHERE: Mapping[str, str] = {
    "name": "study_name run_name experiment_name exp_name project_name mlflow_experiment_name",
    "base_model": "model model_name model_id model_name_or_path model_path base_model_name "
    "base_model_name_or_path base_model_id pretrained_model_name_or_path hf_model_id",
    "revision": "model_revision revision_of_model",
    "trust_remote_code": "trust_remote_code_model",
    "backend": "use_unsloth",
    "quantization": "load_in_4bit load_in_8bit adapter finetuning_type quantization_bit "
    "quantization_method bnb_4bit_quant_type quantization_config quant_type",
    "compute_dtype": "bf16 fp16 bfloat16 float16 float32 pure_bf16 dtype torch_dtype precision "
    "mixed_precision bnb_4bit_compute_dtype model_dtype",
    "optimizer": "optim optimizer_type optimizer_name",
    "gpus_per_trial": "n_gpus num_gpus n_gpu gpus nproc_per_node num_processes world_size "
    "resources_per_trial resources_per_worker ray_num_workers",
    "data.train": "dataset datasets dataset_name dataset_path dataset_id dataset_names data_path "
    "train_file train_files train_data train_dataset train_path train_data_path training_data "
    "training_file data_files dataset_train_split train_split dataset_split",
    "data.eval": "eval_dataset test_datasets eval_file eval_files eval_data eval_data_path "
    "eval_path validation_file validation_data validation_dataset val_data val_dataset val_file "
    "val_set_size val_size val_split test_size eval_size test_split_size validation_split "
    "validation_split_percentage eval_split eval_ratio val_ratio validation validation_size test "
    "test_file dataset_test_split eval_split_ratio",
    "data.max_length": "max_length max_seq_length max_seq_len sequence_len cutoff_len "
    "sequence_length seq_len seq_length model_max_length context_length block_size "
    "max_source_length max_tokens max_sequence_length",
    "data.columns": "dataset_text_field field_messages field_instruction field_input field_output "
    "text_column text_field prompt_column response_column column_mapping input_column "
    "output_column messages_field",
    "data.template": "prompt_template formatting_func prompt_format",
    "data.system": "default_system default_system_message system_prompt system_message",
    "data.chat_template": "template chat_template chat_template_jinja chat_template_path "
    "conversation",
    "data.template_arguments": "chat_template_kwargs enable_thinking preserve_thinking",
    "data.loss_on": "train_on_inputs train_on_prompt completion_only_loss assistant_only_loss "
    "train_on_responses_only mask_inputs",
    "budget.trials": "n_trials num_trials max_trials num_samples run_cap n_iter count",
    "budget.hours": "timeout time_budget_s",
    "evaluate.times": "eval_steps evals_per_epoch",
    "evaluate.rows": "max_eval_samples num_eval_samples eval_samples",
    "objective.metric": "metric metric_for_best_model compute_accuracy",
    "objective.direction": "direction mode goal greater_is_better",
    "objective.max_new_tokens": "generation_max_new_tokens eval_max_new_tokens "
    "generation_max_length",
    "pruning.overfit.patience": "early_stopping_patience early_stopping_steps",
    "pruning.outclassed": "early_terminate pruner scheduler grace_period",
    "pruning.outclassed.factor": "reduction_factor eta",
    "sampler": "method search_alg search_algorithm search_algo algorithm",
    "start_from": "warm_start",
    "start_with": "points_to_evaluate enqueue_trial",
    "seed": "random_state random_seed rand_seed manual_seed",
    "keep_adapters": "keep_checkpoints_num",
    "search": "parameters param_space search_space hyperparameters hp_space params",
    "search.rank": "r lora_r lora_rank lora_dim",
    "search.alpha": "lora_alpha",
    "search.dropout": "lora_dropout",
    "search.target_modules": "lora_target lora_targets lora_target_modules lora_target_linear",
    "search.use_rslora": "peft_use_rslora rslora use_rs_lora",
    "search.use_dora": "peft_use_dora dora",
    "search.learning_rate": "lr peak_lr max_lr",
    "search.epochs": "num_epochs num_train_epochs n_epochs max_epochs total_epochs max_steps "
    "max_train_steps total_steps",
    "search.effective_batch_size": "batch_size global_batch_size total_batch_size "
    "train_batch_size per_device_train_batch_size per_device_batch_size "
    "gradient_accumulation_steps gradient_accumulation grad_accumulation_steps grad_accum "
    "accumulate_grad_batches grad_accum_steps",
    "search.warmup_ratio": "warmup_steps num_warmup_steps lr_warmup_steps warmup",
    "search.weight_decay": "wd",
    "search.lr_scheduler": "lr_scheduler_type lr_schedule scheduler_type lr_scheduler_name",
    "search.max_grad_norm": "gradient_clip_val gradient_clipping grad_clip clip_grad_norm "
    "max_gradient_norm",
    "search.neftune_alpha": "neftune_noise_alpha noisy_embedding_alpha",
}
"""Our key → what others call it. Their values may differ: `foreign_values` knows how."""

HERE = {key: ours for ours, keys in CALLED_ELSEWHERE.items() for key in keys.split()}

_WHY: Mapping[str, str] = {
    "MLflow records every trial": "wandb* use_wandb comet_* use_comet swanlab_* use_swanlab "
    "trackio_* use_trackio report_to use_tensorboard tensorboard* neptune_* use_mlflow otel_* "
    "use_otel_metrics gradio_* project entity description include_tokens_per_second include_tkps "
    "include_num_input_tokens_seen include_effective_tokens_per_second profiler_* profile_modules "
    "enable_torch_profiler clearml_* aim_* mlflow_run_name hf_mlflow_* push_to_tracker",
    "`--mlflow` or MLFLOW_TRACKING_URI names the server": "mlflow_tracking_uri mlflow_*",
    "`--study` names the database": "storage",
    "`--output` names the folder of sweeps": "output_dir out_dir overwrite_output_dir "
    "storage_path storage_filesystem local_dir logging_dir save_dir save_path sync_config "
    "upload_dir lora_out_dir",
    "the log needs no setting": "logging_* log_* verbose* disable_tqdm plot_loss "
    "progress_reporter show_progress_bar print_param_status debug callbacks loggers",
    "`checkpoint_minutes` says how often to save": "save_steps save_strategy saves_per_epoch "
    "save_* checkpoint_* checkpointing_steps dynamic_checkpoint enable_jit_checkpoint",
    "the best adapters are kept by themselves": "load_best_model_at_end",
    "evaluations are evenly spread; see `evaluate.times`": "eval_strategy evaluation_strategy "
    "do_eval eval_delay eval_on_start eval_on_each_dataset evaluate_during_training",
    "evaluation batches fit themselves to memory": "per_device_eval_batch_size eval_batch_size "
    "eval_accumulation_steps bf16_full_eval fp16_full_eval val_batch_size",
    "each trial's own evaluations decide": "loss_watchdog_* do_bench_eval bench_* "
    "do_causal_lm_eval lm_eval_*",
    "micro-batches fit themselves to memory": "auto_find_batch_size gpu_memory_limit max_memory "
    "torch_empty_cache_steps gc_* skip_memory_metrics gpu_memory_utilization",
    "it switches itself on where memory needs it": "gradient_checkpointing* "
    "use_gradient_checkpointing activation_offloading activation_checkpointing layer_offloading "
    "selective_checkpointing use_unsloth_gc disable_gradient_checkpointing use_reentrant_gc "
    "enable_gradient_checkpointing offload_folder low_cpu_mem_usage",
    "the backend picks the attention": "flash_attention flash_attn* use_flash_attention* "
    "flash_optimum attn_implementation *_attention shift_attn gemma4_hybrid_attn_impl sdpa_varlen "
    "flex_attn_* large_head_attention",
    "rows are packed by themselves where it is safe": "packing packing_* sample_packing* "
    "neat_packing pad_to_* padding_free padding_side group_by_length multipack_* batch_flattening "
    "length_column_name train_sampling_strategy max_packed_sequence_len block_diag_attn "
    "curriculum_sampling use_pose pose_*",
    "longer rows are cut": "excess_length_strategy truncation truncation_* min_sample_len "
    "max_prompt_len max_prompt_length",
    "GPUs share batches; weights are not split": "deepspeed* deepcompile fsdp* accelerator_config "
    "parallelism_config ddp* *_parallel_* sequence_parallel* tensor_parallel* dp_shard_size "
    "dp_replicate_size context_parallel* ring_attn_func heads_k_stride use_megatron_bridge "
    "megatron_* use_mca hyper_parallel_* use_hyper_parallel use_ray ray_* num_nodes num_machines "
    "machine_rank average_tokens_across_devices distributed_* dispatch_batches fp32_norm* "
    "expert_parallel_* qlora_sharded_model_loading strategy nnodes dist_config rdzv_backend "
    "same_network main_process_ip cp_size cp_mode",
    "workers choose their devices": "device device_map local_rank use_cpu no_cuda lora_on_cpu "
    "master_addr master_port quantization_device_map main_process_port accelerator "
    "experimental_skip_move_to_device",
    "the tokenizer is the model's own": "special_tokens tokens tokenizer* added_tokens_overrides "
    "add_tokens add_special_tokens new_special_tokens_config init_special_tokens resize_* "
    "shrink_embeddings mean_resizing_embeddings embeddings_skip_upcast use_fast_tokenizer "
    "split_special_tokens eot_tokens fix_untrained_tokens pad_token* eos_token* bos_token "
    "unk_token additional_special_tokens skip_special_tokens processor_* append_concat_token",
    "the model's own files say it": "model_type type_of_model is_*_derived_model "
    "base_model_config cls_model_config overrides_of_model_* rope_scaling rope_* num_labels "
    "model_init_kwargs architecture model_kwargs config_name model_class "
    "base_model_ignore_patterns",
    "the row's columns tell its form": "dataset_type type ds_type format data_format input_format "
    "dataset_kwargs formatting tool_format field field_* roles system_format no_input_format "
    "logprobs_field message_field_content message_field_role message_property_mappings",
    "all of a file is read as it stands": "streaming* streaming dataset_streaming shuffle_* "
    "disable_shuffling max_samples max_train_samples mix_strategy interleave_probs buffer_size "
    "dataset_exact_deduplication ignore_data_skip preprocess_shards shards shards_idx "
    "dataset_shard* media_dir dataset_dir dataset_config* data_dir fraction pretraining_dataset "
    "pretrain_* pretraining_* split sample_size skip total_num_tokens total_supervised_tokens "
    "shuffle subset",
    "data is read without any setting": "dataloader_* dataset_num_proc dataset_processes "
    "dataset_keep_in_memory preprocessing_* preprocess_* overwrite_cache remove_unused_columns "
    "label_names cache_dir use_cache num_workers num_proc data_shared_file_system is_preprocess "
    "num_dataset_shards_to_save push_dataset_to_hub input_transform dataset_prepared_path "
    "batching_strategy tokenized_path skip_prepare_dataset",
    "every assistant turn is learnt, with its end": "mask_history roles_to_train train_on_eos "
    "train_on_eot message_field_training* drop_system_message ignore_pad_token_for_loss "
    "split_thinking template_thinking_key field_thinking data_collator response_template "
    "instruction_template instruction_part response_part",
    "only supervised fine-tuning is done": "stage do_train do_predict rl rl_* dpo_* kto_* ppo_* "
    "pref_* simpo_* orpo_* cpo_* rpo_* trainer_cls trainer reward_* trl vllm vllm_* use_vllm "
    "ref_model* beta num_generations process_reward_model center_rewards_coefficient ebft task "
    "task_type precompute_ref_log_probs sglang_* infer_* num_iterations ld_alpha diffusion "
    "max_completion_length model_init_* nemo_gym_* train_type sample_backend",
    "a LoRA adapter is always trained": "use_peft use_lora peft_type peft peft_method "
    "full_finetuning inference_mode enable_lora lora lora_task_type use_qlora finetuning_type "
    "full_finetune",
    "every trial trains a new adapter": "adapter_name_or_path adapter_folder lora_model_dir "
    "create_new_adapter resume_from_adapter",
    "only the adapter is trained, on `search.target_modules`": "modules_to_save "
    "lora_modules_to_save additional_target freeze_* unfrozen_parameters exclude_modules "
    "finetune_* target_parameters lora_target_parameters layers_to_transform layers_pattern "
    "peft_layers_* bias lora_bias rank_pattern alpha_pattern lora_rank_pattern lora_alpha_pattern "
    "trainable_token_indices peft_trainable_token_indices embedding_lr* layer_replication "
    "peft_layer_replication fan_in_fan_out lora_fan_in_fan_out use_llama_pro train_from_scratch "
    "optim_target_modules reinit_weights resize_token_embeddings*",
    "plain LoRA, or DoRA, is all there is": "init_lora_weights peft_init_lora_weights pissa_* "
    "loftq_* oft_* module_dropout use_galore galore_* use_apollo apollo_* use_badam badam_* "
    "relora* lisa_* qgalore_* use_adam_mini use_muon dion_* mora use_mora eva_config corda_config "
    "use_qalora megatron_config arrow_config mora_type alora_* peft_version lora_ga_config "
    "mixture_of_depths peft_autocast_* peft_ensure_weight_tying ensure_weight_tying "
    "runtime_config auto_mapping spectrum_* use_bdlora velora_config kasa_config "
    "monteclora_config qalora_group_size grokfast_*",
    "all adapter weights share one rate": "loraplus_* lr_groups",
    "`search.lr_scheduler` and `warmup_ratio` shape the rate": "lr_scheduler_kwargs "
    "cosine_min_lr_ratio cosine_constant_lr_ratio lr_div_factor lr_quadratic_warmup min_lr "
    "min_lr_ratio num_cycles lr_decay_steps jagged_* lr_scheduler_args warmup_epochs eta_min",
    "AdamW keeps its usual values": "adam_* optim_args optimizer_kwargs optim_kwargs betas beta1 "
    "beta2 eps adam_epsilon momentum torchdistx_path",
    "the loss is plain cross-entropy": "label_smoothing* loss_type use_dft_loss use_asft_loss "
    "asft_alpha use_eaft* eaft_* kd_* loss_fn dft_* moe_aux_loss_coef router_aux_loss_coef "
    "scaling_softmax*",
    "NF4 is always doubly quantised": "double_quantization bnb_4bit_use_double_quant "
    "use_bnb_nested_quant bnb_4bit_use_nested_quant use_nested_quant",
    "`quantization` is all there is to choose": "bnb_* bnb_config_kwargs quantization_* "
    "model_quantization_config* nonexpert_quantization llmcompressor gptq* llm_int8_* qat ptq "
    "fp8* nvfp4* hqq* awq* upcast_layernorm upcast_lmhead_output quantize_moe_experts "
    "use_onebitllms",
    "kernels are the backend's choice": "liger_* use_liger_kernel enable_liger_kernel use_liger "
    "torch_compile* tf32 half_precision_backend lora_*_kernel cut_cross_entropy use_kernels "
    "chunked_cross_entropy* tiled_mlp* unsloth_* plugins use_v1_kernels fused_attn_kernel "
    "fast_inference experts_implementation dense_mixer expert_backend use_scattermoe use_sonicmoe "
    "moe_* dsv4_* gemma4_* use_kt kt_* use_kv_cache xformers compile llama4_linearized_experts "
    "activation_offload allow_tf32 max_lora_rank float8_* fix_tokenizer kernel_config",
    "see `sweep push` and `sweep export`": "push_to_hub* hub_* export_* merge_lora merge_method "
    "save_method merge_* push_adapter hf_repo",
    "the hub's token comes from HF_TOKEN": "hf_use_auth_token hf_token token hf_hub_token "
    "ms_hub_token om_hub_token use_auth_token",
    "only `objective` generates text, greedily": "do_sample temperature top_p top_k min_p "
    "num_beams repetition_penalty length_penalty predict_with_generate generate_* generation_* "
    "num_generation_samples inference_* sample_prompts max_new_tokens_sample use_generate",
    "the same command continues a sweep": "resume resume_* auto_resume_* load_if_exists resumable "
    "restore_callback_states_from_checkpoint",
    "a failed trial is told, and the sweep goes on": "failure_config fail_fast max_failures "
    "raise_on_failed_trial catch",
    "one trial runs on each GPU; on CPUs see `--workers`": "max_concurrent_trials max_concurrent "
    "n_jobs cpus_per_trial reuse_actors parallel_tool_workers",
    "`sweep run` starts the trials": "program command controller job image_uri entrypoint "
    "run_config trial_name_creator trial_dirname_creator chdir_to_trial_dir gc_after_trial "
    "num_agents agent ray_init_kwargs func trainable",
    "`budget` and `pruning` end trials": "stop stopper max_t min_iter max_iter min_resource "
    "max_resource time_attr brackets",
    "the sampler keeps its usual settings": "n_startup_trials n_ei_candidates multivariate "
    "sampler_kwargs consider_* n_warmup_steps interval_steps",
    "one objective is searched": "directions",
    "only text is trained on": "image_* video_* audio_* crop_to_patches use_audio_in_video "
    "freeze_mm_modules role_boundaries vision_*",
    "`seed` decides all that is random": "full_determinism deterministic benchmark data_seed",
    "that is the other trainer's own business": "strict axolotl_config_path capabilities "
    "env_capabilities ignore_bias_buffers recipe downcast_bf16 compute_environment "
    "main_training_function tpu_* template_name",
    "`evaluate` holds all that can be set": "eval_* batch_eval_metrics prediction_loss_only "
    "include_for_metrics",
}
"""Why a key is not here → the keys; a star stands for any end or beginning."""

_NOT_HERE = {key: why for why, keys in _WHY.items() for key in keys.split()}
_PATTERNS = [(key, why) for key, why in _NOT_HERE.items() if "*" in key]


def why_not_here(key: str, *, by_pattern: bool) -> str | None:
    """Why a key of another trainer is not here; None: it is none that is known.

    Args:
        by_pattern: Whether to try `wandb_*` and its like, which a typo of ours may match too.
    """
    if not by_pattern:
        return _NOT_HERE.get(key)
    return next((why for pattern, why in _PATTERNS if fnmatchcase(key, pattern)), None)


_DTYPES = {
    **dict.fromkeys(("bf16", "bfloat16", "torch.bfloat16", "bf16-mixed", "bf16_mixed"), "bfloat16"),
    **dict.fromkeys(("fp16", "float16", "torch.float16", "half", "16-mixed"), "float16"),
    **dict.fromkeys(("fp32", "float32", "torch.float32", "float", "no"), "float32"),
    "auto": "auto",
}
VALUES: Mapping[str, Mapping[str, str]] = {
    "quantization": {
        **dict.fromkeys(("4bit", "4-bit", "4", "int4", "bnb-4bit"), "nf4"),
        **dict.fromkeys(("8bit", "8-bit", "8", "bnb-8bit"), "int8"),
    },
    "compute_dtype": _DTYPES,
    "optimizer": {
        **dict.fromkeys(
            "adamw adamw_hf adamw_torch adamw_torch_fused adamw_apex_fused adamw_torch_npu_fused "
            "paged_adamw paged_adamw_32bit adamw_torch_xla".split(),
            "adamw",
        ),
        "adamw_bnb_8bit": "adamw_8bit",
        "adamw8bit": "adamw_8bit",
        "adamw_torch_8bit": "adamw_8bit",
    },
    "sampler": {
        **dict.fromkeys("bayes bayesian optuna hyperopt tpesampler optunasearch".split(), "tpe"),
        **dict.fromkeys(("randomsampler", "basicvariant", "variant_generator"), "random"),
        "gpsampler": "gp",
        "qmcsampler": "qmc",
        "gridsampler": "grid",
        "grid_search": "grid",
        "random_search": "random",
    },
    "objective.metric": {
        **dict.fromkeys(("eval/loss", "val_loss", "validation_loss", "val/loss"), "eval_loss"),
        **dict.fromkeys(("eval/mean_token_accuracy", "mean_token_accuracy"), "token_accuracy"),
        **dict.fromkeys(("eval_mean_token_accuracy", "eval_token_accuracy"), "token_accuracy"),
        **dict.fromkeys(("rougel", "eval_rougel", "eval_rouge_l", "rouge-l"), "rouge_l"),
        "eval_exact_match": "exact_match",
    },
    "objective.direction": {"min": "minimize", "max": "maximize"},
    "pruning.outclassed.pruner": {
        **dict.fromkeys("asha asynchyperband async_hyperband ashascheduler".split(), "asha"),
        **dict.fromkeys(("hyperbandpruner", "hyperbandscheduler", "hb_bohb"), "hyperband"),
        **dict.fromkeys(("median_stopping", "medianstopping", "median_stopping_rule"), "median"),
        **dict.fromkeys(("medianpruner", "medianstoppingrule"), "median"),
        "successivehalvingpruner": "successive_halving",
        "percentilepruner": "percentile",
    },
    "search.lr_scheduler": {"constant_with_warmup": "constant", "wsd": "warmup_stable_decay"},
}
"""Our key → what others write, in small letters → what is written here."""
