"""What any trainer takes from a trial: its configuration, its rows, its steps."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sweep.folder import layout
from sweep.results.trial_record import Record
from trials.config import TrialConfig, largest_divisor
from trials.models.presets import DECAY_SHARE, EARLIER_TARGETS
from trials.models.sources import local_or_hub
from trials.trial_folder import TEMPLATE, TOKENIZER, read_report


@dataclass(frozen=True, slots=True)
class Run:
    """What a training takes from a trial, whatever the trainer."""

    config: TrialConfig
    base: str
    """A hub id, or a folder."""
    data: Mapping[str, Any]
    """`data` of the space."""
    template_path: Path | None
    """The text of the chat template in place of the base model's own."""
    chat: bool
    """Whether prompt and completion were rendered with the chat template."""
    n_steps: int
    """Optimizer steps of the whole run, also of one that was stopped early."""
    micro_batch_size: int
    """Rows that fitted at once, made a divisor of a GPU's share of the batch."""
    checkpointing: bool
    """Whether it fitted only with activations computed again."""
    target_modules: list[str]
    """Names of the adapted modules, as peft takes them; or `all-linear` alone."""
    target_parameters: list[str]
    """Weights of the adapted experts."""

    @property
    def accumulation(self) -> int:
        """Micro-batches of each GPU per optimizer step."""
        return self.config.rows_of_a_gpu // self.micro_batch_size

    @property
    def warmup_steps(self) -> int:
        """Optimizer steps in which the learning rate rises."""
        return int(self.config.warmup_ratio * self.n_steps)

    @property
    def is_16_bit(self) -> str | None:
        """bf16, fp16, or None: 32 bits."""
        names = {"auto": "bf16", "bfloat16": "bf16", "float16": "fp16"}
        return names.get(self.config.model.compute_dtype)

    @property
    def schedule(self) -> dict[str, Any]:
        """`lr_scheduler_kwargs`, where the schedule needs them."""
        if self.config.lr_scheduler != "warmup_stable_decay":
            return {}
        decay = {"num_decay_steps": math.ceil(self.n_steps * DECAY_SHARE)}
        return {"lr_scheduler_kwargs": decay}

    @property
    def train(self) -> list[str]:
        """The training rows, as the space names them."""
        return _listed(self.data["train"])

    @property
    def eval(self) -> list[str]:
        """The eval rows; none where they are held out of train."""
        return [] if self.held_out is not None else _listed(self.data["eval"])

    @property
    def held_out(self) -> float | None:
        """The share of the rows that are eval rows; None: they have a file of their own."""
        share = self.data["eval"]
        return share if isinstance(share, float) else None

    @property
    def arguments(self) -> dict[str, Any]:
        """What the chat template is given beside the turns."""
        return dict(self.data.get("template_arguments") or {})

    @property
    def columns(self) -> dict[str, str]:
        """Our name of a column → the file's own."""
        return dict(self.data.get("columns") or {})


def _listed(given: str | list[str]) -> list[str]:
    return list(given) if isinstance(given, list) else [str(given)]


def data_of(record: Record) -> Mapping[str, Any]:
    """Return `data` of the space that the sweep was run with; empty where that cannot be read."""
    try:
        text = (record.sweep.folder / layout.SPACE).read_text(encoding="utf-8")
        return dict(YAML(typ="safe", pure=True).load(text)["data"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, YAMLError):
        return {}


def run_of(record: Record) -> Run:
    """Return what a training takes from a trial.

    Raises:
        StudyError, DataError: The trial's configuration is not there, or what its rows are cannot
            be read.
    """
    config = record.needed_config()
    report = read_report(record.sweep.folder / layout.DATA) or {}
    result, data = record.result, data_of(record)
    # Where rows were short, more of them went at once than another trainer may take of any length.
    most = config.micro_batch_size
    held = min((result and result.micro_batch_size) or most, most)
    return Run(
        config=config,
        base=local_or_hub(config.model.name),
        data=data or {"train": "TRAIN_FILE", "eval": "EVAL_FILE"},
        template_path=_template_path(record) if data.get("chat_template") else None,
        chat=bool(report.get("chat")),
        n_steps=_n_steps(record, config, report),
        micro_batch_size=largest_divisor(config.rows_of_a_gpu, held),
        checkpointing=bool(result and result.gradient_checkpointing),
        target_modules=_target_modules(config, report),
        target_parameters=_adapter(config, report).get("parameters", []),
    )


def _adapter(config: TrialConfig, report: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the check found of the trial's adapter; empty where an earlier version made it."""
    wanted = config.target_modules, config.experts
    found: list[Mapping[str, Any]] = report.get("adapters", [])
    return next((one for one in found if (one["target"], one["experts"]) == wanted), {})


def _target_modules(config: TrialConfig, report: Mapping[str, Any]) -> list[str]:
    if names := _adapter(config, report).get("names"):
        return list(names)
    earlier = EARLIER_TARGETS.get(config.target_modules, config.target_modules.split(","))
    return [earlier] if isinstance(earlier, str) else list(earlier)


def _template_path(record: Record) -> Path | None:
    """The template as it was used: beside the adapter, or beside the sweep's rows."""
    folders = [record.adapter, record.sweep.folder / layout.DATA / TOKENIZER]
    paths = [folder.resolve() / TEMPLATE for folder in folders if folder is not None]
    return next((path for path in paths if path.exists()), None)


def _n_steps(record: Record, config: TrialConfig, report: Mapping[str, Any]) -> int:
    """Optimizer steps of the whole run: as counted, or as they follow from the rows."""
    if record.curve and record.curve[-1].index == config.n_evaluations:
        return record.curve[-1].step
    counts: Mapping[str, Mapping[str, int]] = report.get("train") or {}
    known = counts.get(str(config.max_length)) or next(iter(counts.values()), None)
    if known is None:  # evaluations are evenly spread over the steps
        last = record.curve[-1] if record.curve else None
        return round(last.step / last.index * config.n_evaluations) if last else 1
    steps_per_epoch = math.ceil((known["rows"] - known["dropped"]) / config.effective_batch_size)
    return max(1, round(steps_per_epoch * config.epochs))
