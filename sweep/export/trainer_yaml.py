"""`sweep best --yaml`: a trial as the configuration of another trainer, as exact as that can be.

TRL's keys are those of 1.15, and a test gives them to its own classes; Axolotl's and
LLaMA-Factory's are those of the schemas in their repositories.
"""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from sweep.export.training_run import Run, run_of
from sweep.results.trial_record import Record
from trials.models.presets import SCHEDULERS

Trainer = Literal["trl", "axolotl", "llama-factory"]

OPTIMIZERS = {
    "adamw": "adamw_torch_fused",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}
"""transformers' names, which all three trainers take."""

BUILDERS = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
"""Of `datasets`, by the end of a file's name; all others are JSON."""


def training_yaml(record: Record, trainer: Trainer) -> str:
    """Return the text of a YAML file that trains the trial's configuration with `trainer`.

    Raises:
        StudyError: The trial's configuration is not there.
    """
    run = run_of(record)
    keys = {"trl": _trl, "axolotl": _axolotl, "llama-factory": _llama_factory}[trainer](run)
    how = {
        "trl": "trl sft --config FILE",
        "axolotl": "axolotl train FILE",
        "llama-factory": "llamafactory-cli train FILE",
    }[trainer]
    stream = io.StringIO()
    stream.write(_comments(_heading(record, run, how)))
    yaml = YAML()
    yaml.Representer = _Yaml11
    yaml.width = 1000
    yaml.dump(keys, stream)
    lines = [*_everywhere(run), *_NOT_THERE[trainer](run)]
    stream.write(_comments(["", "Different from the sweep:", *lines]))
    return stream.getvalue()


def _comments(lines: Sequence[str]) -> str:
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


class _Yaml11(RoundTripRepresenter):
    """Writes numbers so that PyYAML, which the three trainers read with, takes them for numbers."""

    def number(self, value: float) -> ScalarNode:
        text = repr(value)
        if "e" in text and "." not in text:  # 5e-05 is a text in YAML 1.1
            text = text.replace("e", ".0e")
        node: ScalarNode = self.represent_scalar("tag:yaml.org,2002:float", text)
        return node


_Yaml11.add_representer(float, _Yaml11.number)


def _heading(record: Record, run: Run, how: str) -> list[str]:
    config, trial = run.config, record.trial
    lines = [
        f"Trial {trial.number} of the sweep {record.sweep.name}: {trial.name}",
        f"eval loss {trial.eval_loss:.4f} nats per supervised token"
        if trial.eval_loss is not None
        else "it has no eval loss",
    ]
    objective = record.sweep.objective
    if not objective.is_eval_loss and trial.value is not None:
        lines.append(f"{objective.name} {trial.value:.4f}: the objective of the search")
    if record.best is not None and record.best.step < run.n_steps:
        lines.append(
            f"reached at step {record.best.step} of {run.n_steps}: keep the checkpoint with the "
            f"best evaluation, not the last."
        )
    batch = f"{run.micro_batch_size} × {run.accumulation}"
    gpus = config.gpus_per_trial
    lines.append(
        f"effective batch {config.effective_batch_size} = {batch} × {gpus} "
        f"{'GPU' if gpus == 1 else 'GPUs'}: with more GPUs lower the accumulation."
    )
    lines += ["Data paths are those of the search space, relative to its folder.", how]
    return [*lines, ""]


def _adapter(run: Run, names: Mapping[str, str]) -> dict[str, Any]:
    """The adapter's settings under another trainer's names."""
    config = run.config
    alpha = int(config.alpha) if float(config.alpha).is_integer() else config.alpha
    values = {
        "rank": config.rank,
        "alpha": alpha,
        "dropout": config.dropout,
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
    }
    return {names[name]: value for name, value in values.items()}


def _of_transformers(run: Run) -> dict[str, Any]:
    """The settings that transformers' TrainingArguments have; TRL and LLaMA-Factory take them."""
    config = run.config
    keys: dict[str, Any] = {
        "per_device_train_batch_size": run.micro_batch_size,
        "gradient_accumulation_steps": run.accumulation,
        "num_train_epochs": config.epochs,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": SCHEDULERS[config.lr_scheduler],
        **run.schedule,
        "warmup_steps": run.warmup_steps,
        "optim": OPTIMIZERS[config.optimizer],
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
    }
    if config.neftune_alpha:
        keys["neftune_noise_alpha"] = config.neftune_alpha
    return {
        **keys,
        "bf16": run.is_16_bit == "bf16",
        "fp16": run.is_16_bit == "fp16",
        "seed": config.seed,
    }


def _trl(run: Run) -> CommentedMap:
    model = run.config.model
    keys: dict[str, Any] = {"model_name_or_path": run.base}
    if model.revision is not None:
        keys["model_revision"] = model.revision
    keys |= {
        "trust_remote_code": model.trust_remote_code,
        "dtype": {"bf16": "bfloat16", "fp16": "float16"}.get(run.is_16_bit or "", "float32"),
        "load_in_4bit": model.quantization == "nf4",
        "load_in_8bit": model.quantization == "int8",
    }
    if model.quantization == "nf4":
        keys |= {"bnb_4bit_quant_type": "nf4", "use_bnb_nested_quant": True}
    names = {
        "rank": "lora_r",
        "alpha": "lora_alpha",
        "dropout": "lora_dropout",
        "use_rslora": "use_rslora",
        "use_dora": "use_dora",
    }
    keys |= {"use_peft": True, **_adapter(run, names)}
    keys["lora_target_modules"] = run.target_modules
    if run.target_parameters:
        keys["lora_target_parameters"] = run.target_parameters
    keys["datasets"] = [_loaded(source) for source in run.train]
    if run.held_out is not None:
        keys["test_split_size"] = run.held_out
        keys |= {"eval_strategy": "epoch"}
    if run.template_path is not None:
        keys["chat_template_path"] = str(run.template_path)
    keys |= {
        "max_length": run.config.max_length,
        "packing": False,
        **_of_transformers(run),
        "gradient_checkpointing": run.checkpointing,
        "output_dir": "trl-out",
    }
    return CommentedMap(keys)


def _loaded(source: str) -> dict[str, str]:
    """A data set as `datasets.load_dataset` takes it."""
    from trials.data.examples import looks_like_hub_id

    if looks_like_hub_id(source):
        name, _, split = source.partition(":")
        return {"path": name, "split": split or "train"}
    suffix = Path(source.removesuffix(".gz")).suffix
    return {"path": BUILDERS.get(suffix, "json"), "data_files": source}


def _axolotl(run: Run) -> CommentedMap:
    config, model = run.config, run.config.model
    keys: dict[str, Any] = {"base_model": run.base}
    if model.revision is not None:
        keys["revision_of_model"] = model.revision
    keys |= {
        "trust_remote_code": model.trust_remote_code,
        "load_in_4bit": model.quantization == "nf4",
        "load_in_8bit": model.quantization == "int8",
        "adapter": "qlora" if model.quantization == "nf4" else "lora",
    }
    names = {
        "rank": "lora_r",
        "alpha": "lora_alpha",
        "dropout": "lora_dropout",
        "use_rslora": "peft_use_rslora",
        "use_dora": "peft_use_dora",
    }
    keys |= _adapter(run, names)
    if isinstance(keys["lora_alpha"], float):  # Axolotl refuses a fraction
        keys["lora_alpha"] = max(1, round(config.alpha))
    if run.target_modules == ["all-linear"]:
        keys["lora_target_linear"] = True
    else:
        keys["lora_target_modules"] = run.target_modules
    if run.target_parameters:
        keys["lora_target_parameters"] = run.target_parameters
    keys["datasets"] = [_axolotl_data(run, source) for source in run.train]
    if run.held_out is not None:
        keys["val_set_size"] = run.held_out
    else:
        keys["test_datasets"] = [_axolotl_data(run, source) for source in run.eval]
    if run.template_path is not None:
        keys |= {"chat_template": "jinja", "chat_template_jinja": str(run.template_path)}
    if run.arguments:
        keys["chat_template_kwargs"] = run.arguments
    keys |= {
        "sequence_len": config.max_length,
        "excess_length_strategy": "truncate",
        "sample_packing": False,
        "train_on_inputs": run.data.get("loss_on") == "all",
        "micro_batch_size": run.micro_batch_size,
        "gradient_accumulation_steps": run.accumulation,
        "num_epochs": config.epochs,
        "learning_rate": config.learning_rate,
        "lr_scheduler": SCHEDULERS[config.lr_scheduler],
        **run.schedule,
        "warmup_steps": run.warmup_steps,
        "optimizer": OPTIMIZERS[config.optimizer],
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
    }
    if config.neftune_alpha:
        keys["neftune_noise_alpha"] = config.neftune_alpha
    keys |= {
        "bf16": run.is_16_bit == "bf16",
        "fp16": run.is_16_bit == "fp16",
        "gradient_checkpointing": run.checkpointing,
        "seed": config.seed,
        "output_dir": "axolotl-out",
    }
    return CommentedMap(keys)


def _axolotl_data(run: Run, source: str) -> dict[str, Any]:
    loaded = _loaded(source)
    is_file = "data_files" in loaded
    place = {"path": source, "ds_type": loaded["path"]} if is_file else dict(loaded)
    if run.chat:
        column = run.columns.get("messages", "messages")
        return {**place, "type": "chat_template", "field_messages": column}
    prompt, completion = (run.columns.get(name, name) for name in ("prompt", "completion"))
    plain = {"format": "{instruction}", "no_input_format": "{instruction}"}
    return {**place, "type": {"field_instruction": prompt, "field_output": completion, **plain}}


def _llama_factory(run: Run) -> CommentedMap:
    config, model = run.config, run.config.model
    keys: dict[str, Any] = {"model_name_or_path": run.base}
    if model.revision is not None:
        keys["model_revision"] = model.revision
    keys["trust_remote_code"] = model.trust_remote_code
    if model.quantization != "none":
        keys |= {
            "quantization_method": "bnb",
            "quantization_bit": 4 if model.quantization == "nf4" else 8,
        }
    if model.quantization == "nf4":
        keys |= {"quantization_type": "nf4", "double_quantization": True}
    names = {
        "rank": "lora_rank",
        "alpha": "lora_alpha",
        "dropout": "lora_dropout",
        "use_rslora": "use_rslora",
        "use_dora": "use_dora",
    }
    keys |= {"stage": "sft", "do_train": True, "finetuning_type": "lora", **_adapter(run, names)}
    is_all = run.target_modules == ["all-linear"]
    keys["lora_target"] = "all" if is_all else ",".join(run.target_modules)
    keys |= {"dataset": ",".join(_named("train", run.train)), "dataset_dir": "data"}
    if not run.chat:
        keys["template"] = "empty"
    keys |= {name: value for name, value in run.arguments.items() if name == "enable_thinking"}
    names_of_eval = {"eval_dataset": ",".join(_named("eval", run.eval))}
    keys |= names_of_eval if run.held_out is None else {"val_size": run.held_out}
    keys["eval_strategy"] = "epoch"
    keys |= {
        "cutoff_len": config.max_length,
        "packing": False,
        "train_on_prompt": run.data.get("loss_on") == "all",
        **_of_transformers(run),
        "disable_gradient_checkpointing": not run.checkpointing,
        "output_dir": "llama-factory-out",
    }
    return CommentedMap(keys)


def _named(split: str, sources: Sequence[str]) -> dict[str, str]:  # train, train_2
    return {split + (f"_{n}" if n > 1 else ""): source for n, source in enumerate(sources, 1)}


def _everywhere(run: Run) -> list[str]:
    """What none of the three has."""
    lines = [
        "  row order: each trainer shuffles in its own way",
        f"  {run.config.n_evaluations} evaluations, evenly spaced over the run, on one sample",
        f"  warm-up: {run.warmup_steps} steps are {run.config.warmup_ratio:g} of {run.n_steps}; "
        f"recompute if the rows change",
    ]
    if isinstance(share := run.data.get("test"), float):
        lines.append(f"  data.test: {share:g} of the rows, which the trial did not learn: hold out")
    if run.config.model.compute_dtype == "auto":
        lines.append("  compute_dtype auto: write fp16 in place of bf16 for GPUs before Ampere")
    if run.held_out is not None:
        lines.append("  held-out rows: as many, but not the same; equal rows may be split up")
    if run.config.model.backend == "unsloth":
        lines.append("  backend: the trial ran with Unsloth")
    for key in ("template", "prompt", "completion", "system"):
        if given := run.data.get(key):
            lines.append(f"  data.{key}: write it into the rows, {given!r}")
    return lines


def _not_in_trl(run: Run) -> list[str]:
    lines = [
        "  data: TRL knows the columns messages, prompt with completion, and text; rename others",
        "  loss_on: of prompt with completion TRL learns the completion; for messages add "
        "assistant_only_loss: true, which needs a template with generation marks",
    ]
    if run.columns:
        pairs = ", ".join(f"{theirs} → {ours}" for ours, theirs in run.columns.items())
        lines.append(f"  data.columns: rename {pairs}")
    if run.held_out is None:
        lines.append(f"  data.eval: `datasets` has no place for {', '.join(run.eval)}")
    if run.config.model.quantization == "nf4":
        lines.append("  the adapter's weights: TRL's are bfloat16, those of the sweep float32")
    if not run.chat:
        lines.append("  data.chat: false: prompt and completion as plain texts are not templated")
    if run.arguments:
        given = json.dumps(run.arguments)
        lines.append(f"  data.template_arguments: a column chat_template_kwargs with {given}")
    return lines


def _not_in_axolotl(run: Run) -> list[str]:
    lines = []
    if float(run.config.alpha) != round(run.config.alpha):
        lines.append(f"  alpha: the trial had {run.config.alpha:g}; Axolotl takes whole numbers")
    if run.chat:
        lines.append(
            "  data: this reads a column of messages; put prompt and completion into such turns"
        )
    else:
        lines.append("  data: this reads prompt and completion; for plain text: type: completion")
    if run.config.model.quantization == "nf4":
        lines.append("  double quantisation: Axolotl's own default for qlora")
    return lines


def _not_in_llama_factory(run: Run) -> list[str]:
    ours = {"prompt": "prompt", "response": "completion"}
    columns = {"columns": {theirs: run.columns.get(name, name) for theirs, name in ours.items()}}
    named = (_named("train", run.train) | _named("eval", run.eval)).items()
    files = {name: {"file_name": Path(source).name, **columns} for name, source in named}
    lines = [
        f"  data: dataset_dir needs a dataset_info.json; for prompt and completion: "
        f"{json.dumps(files)}"
    ]
    if run.chat:
        lines.append("  template: left out, so that it is the tokenizer's own chat template")
    if run.template_path is not None:
        lines.append(f"  data.chat_template: copy {run.template_path} into the base model's folder")
    if run.target_parameters:
        lines.append("  experts: left out, since there is no key for weights of experts")
    if others := [name for name in run.arguments if name != "enable_thinking"]:
        lines.append(f"  data.template_arguments: no keys for {', '.join(others)}")
    return lines


_NOT_THERE = {
    "trl": _not_in_trl,
    "axolotl": _not_in_axolotl,
    "llama-factory": _not_in_llama_factory,
}
