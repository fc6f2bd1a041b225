"""The model card of what is exported: the README.md that the hub and people read."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from sweep.export.adapter_files import TEXT_MODEL, base_class
from sweep.export.serving import serving_adapter, serving_model
from sweep.results.trial_record import Record
from sweep.space.hyperparameters import HYPERPARAMETERS
from trials.config import TrialConfig
from trials.models.smollm2 import is_builtin
from trials.models.sources import local_or_hub
from trials.trial_folder import TOKENIZER_CONFIG

FOLDER = "THIS_FOLDER"
"""Of the export, in a card that goes to nobody knows where."""
IN_WORDS = {"nf4": "4 bits (NF4 with double quantisation)", "int8": "8 bits", "none": "16 bits"}


def model_card(
    record: Record,
    *,
    is_merged: bool,
    data: str,
    template: str | None,
    arguments: Mapping[str, Any],
    repo: str | None = None,
) -> str:
    """Return the card: YAML front matter as the hub reads it, then words.

    Args:
        data: The training rows, as the search space names them.
        template: The chat template in place of the base model's own, likewise.
        arguments: What the chat template was given beside the turns.
        repo: Of the hub, where it goes; None: it stays in a folder.

    Raises:
        StudyError: The trial's configuration is not there.
    """
    config, trial = record.needed_config(), record.trial
    kind = "model" if is_merged else "adapter"
    stream = io.StringIO()
    YAML().dump(_front_matter(config, record.adapter, is_merged=is_merged), stream)
    given = {"chat_template": template, "template_arguments": json.dumps(arguments)}
    shown = [*_values(config), *((name, v) for name, v in given.items() if v not in (None, "{}"))]
    values = "\n".join(f"| {name} | {value} |" for name, value in shown)
    how_to_load = _how_to_load(config, record.adapter, is_merged=is_merged)
    how_to_load = f"{how_to_load}\n{rendered_with(arguments)}".rstrip()
    how_to_load = how_to_load.replace(FOLDER, repo or FOLDER)
    return f"""\
---
{stream.getvalue()}---

# {record.sweep.name}, trial {trial.number}

A LoRA {kind} of `{config.model.name}`{_revision(config)}, trained on `{data}`. A search
found its hyperparameters: trial {trial.number} of {len(record.sweep.trials)}.

**Eval loss**: {_measured(record)}

## How to load it

```python
{how_to_load}
```

## How to serve it

{_how_to_serve(record, config, repo, is_merged=is_merged)}

## How it was trained

| setting | value |
|---|---|
{values}

AdamW; the adapter of the evaluation with the lowest eval loss was kept.
"""


def _measured(record: Record) -> str:
    """Its eval loss beside the base model's: by the final evaluation where there was one."""
    trial, best, objective = record.trial, record.best, record.sweep.objective
    loss, base_loss, where = trial.eval_loss, record.sweep.base_eval_loss, ""
    value = trial.value
    quantization = record.needed_config().model.quantization
    if (found := record.sweep.final.headline(trial.number)) is not None:
        loss, base_loss = found.trial.losses.loss, found.base.losses.loss
        where, quantization = f" {found.where}", found.figures.quantization or quantization
        value = found.trial.value
    measured = ""
    if loss is not None:
        against = "" if base_loss is None else f" The base model has {base_loss:.4f}."
        reached = f" Reached at step {best.step}, epoch {best.epoch:.2f}." if best else ""
        measured = f"{loss:.4f} nats per supervised token{where}.{against}{reached}"
    as_trained = (
        ", as it was trained" if quantization == record.needed_config().model.quantization else ""
    )
    measured += f"\nMeasured on the base model in {IN_WORDS[quantization]}{as_trained}."
    if not objective.is_eval_loss and value is not None:
        measured += f"\n\n**{objective.name}** (the objective of the search): {value:.4f}{where}"
    return measured


def _front_matter(config: TrialConfig, adapter: Path | None, *, is_merged: bool) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    # A folder's path says nothing to the hub, and is refused there.
    if not (is_builtin(config.model.name) or Path(config.model.name).is_dir()):
        keys["base_model"] = config.model.name
        keys["base_model_relation"] = "finetune" if is_merged else "adapter"
    keys["library_name"] = "transformers" if is_merged else "peft"
    if base_class(adapter) == TEXT_MODEL:  # of one that reads images too, nobody has tried those
        keys["pipeline_tag"] = "text-generation"
    keys["tags"] = ["lora"] if config.model.quantization == "none" else ["lora", "qlora"]
    return keys


def _revision(config: TrialConfig) -> str:
    return "" if config.model.revision is None else f" (revision `{config.model.revision}`)"


def _values(config: TrialConfig) -> list[tuple[str, str]]:
    names = [*HYPERPARAMETERS, "optimizer", "seed"]
    values = {name: getattr(config, name) for name in names}
    values |= {"base model": IN_WORDS[config.model.quantization]}
    return [(name, f"{v:g}" if isinstance(v, float) else str(v)) for name, v in values.items()]


def _how_to_load(config: TrialConfig, adapter: Path | None, *, is_merged: bool) -> str:
    dtype = "float16" if config.model.compute_dtype == "float16" else "bfloat16"
    kind = base_class(adapter)
    if is_merged:
        return f"""\
from transformers import {kind}, AutoTokenizer

model = {kind}.from_pretrained("{FOLDER}", dtype="{dtype}")
tokenizer = AutoTokenizer.from_pretrained("{FOLDER}")"""
    name = local_or_hub(config.model.name)
    where = "  # a folder, where it was trained" if Path(name).is_dir() else ""
    revision = f', revision="{config.model.revision}"' if config.model.revision else ""
    code = ", trust_remote_code=True" if config.model.trust_remote_code else ""
    has_tokenizer = adapter is not None and (adapter / TOKENIZER_CONFIG).exists()
    tokenizer = f'"{FOLDER}"{code}' if has_tokenizer else f"name{revision}{code}"
    return f"""\
from peft import PeftModel
from transformers import {kind}, AutoTokenizer

name = {literal(name)}{where}
base = {kind}.from_pretrained(name, dtype="{dtype}"{revision}{code})
model = PeftModel.from_pretrained(base, "{FOLDER}")
tokenizer = AutoTokenizer.from_pretrained({tokenizer})"""


def _how_to_serve(record: Record, config: TrialConfig, repo: str | None, *, is_merged: bool) -> str:
    model, place = config.model, FOLDER
    fetch = f"`{FOLDER}` is where this file lies.\n\n"
    if repo is not None:
        place = "model" if is_merged else "adapter"
        fetch = f"```sh\nhf download {repo} --local-dir {place}\n```\n\n"
    if is_merged or record.adapter is None:
        return fetch + serving_model(place, code=model.trust_remote_code)
    return fetch + serving_adapter(
        record.adapter,
        place,
        local_or_hub(model.name),
        name=record.sweep.name,
        revision=model.revision,
        code=model.trust_remote_code,
    )


def literal(text: object) -> str:
    """A text, such as a path with quotes, as Python reads it in double quotes."""
    return json.dumps(str(text), ensure_ascii=False)


def rendered_with(arguments: Mapping[str, Any]) -> str:
    """A line of Python that renders turns as they were trained; empty where nothing is to say."""
    if not arguments:
        return ""
    given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return f"tokenizer.apply_chat_template(messages, add_generation_prompt=True, {given})"
