"""The value of another trainer's key → our key and, where it can be told, our value."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sweep.space.foreign_keys import HERE, VALUES
from sweep.space.hyperparameters import HYPERPARAMETERS, is_number, shown
from trials.config import PATTERN, PRESETS


@dataclass(frozen=True, slots=True)
class Lead:
    """From a key of another trainer to ours."""

    place: str
    """Our key, dotted."""
    value: Any = None
    """What to write there; None: it cannot be told."""
    note: str = ""
    """How the value comes about, or what ours means."""


def lead_of(key: str, value: Any, given: Mapping[str, Any]) -> Lead | None:
    """Lead from a key and its value to ours; None: it has no counterpart that is known.

    Args:
        given: All keys of the file, nested ones too: some values depend on others.
    """
    place = HERE.get(key)
    if place is None:
        return None
    value = as_domain(value)
    if special := _SPECIAL.get(place):
        return special(key, value, given)
    return Lead(place, translated(place, value))


def translated(place: str, value: Any) -> Any:
    """A value in our words, as far as it is said otherwise elsewhere."""
    if place == "search.target_modules":
        return _kind_of_modules(value)
    if place.startswith("search."):
        value = as_domain(value)
    if isinstance(value, list):
        ours = [translated(place, one) for one in value]
        return value if ours == value else [v for n, v in enumerate(ours) if v not in ours[:n]]
    return VALUES.get(place, {}).get(value.lower(), value) if isinstance(value, str) else value


def as_domain(given: Any) -> Any:
    """A parameter as W&B or Optuna writes it → a value, a list or a range; None: no such is."""
    if not isinstance(given, Mapping) or set(given) <= {"min", "max", "log", "step"}:
        return given
    for key in ("value", "values", "choices"):
        if key in given:
            return given[key]
    ends = [next((given[k] for k in names if k in given), None) for names in _ENDS]
    low, high = map(_number, ends)
    kind = str(given.get("distribution", given.get("type", "")))
    if low is None or high is None or "normal" in kind or kind.startswith(("beta", "inv_log")):
        return None if "distribution" in given or ends != [None, None] else given
    is_log = "log" in kind or given.get("log") is True
    if kind in ("log_uniform", "q_log_uniform"):  # W&B's ends are exponents of e
        low, high = (float(f"{math.exp(min(end, 99)):.3g}") for end in (low, high))
    step = given.get("q", given.get("step"))
    more = {"log": True} if is_log else {"step": step} if step else {}
    return {"min": low, "max": high, **more}


_ENDS = ("min", "low", "lower"), ("max", "high", "upper")


def _number(value: Any) -> Any:
    """PyYAML reads 1e-5 as a text, so people put it in quotation marks."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return value if is_number(value) else None


_MODULES = {
    "qv": {"q_proj", "v_proj"},
    "attention": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "mlp": {"gate_proj", "up_proj", "down_proj"},
}


def _kind_of_modules(value: Any) -> Any:
    if isinstance(value, str):
        value = "all-linear" if value in ("all", "all_linear") else value
        if "," not in value:
            is_choice = value in PRESETS or value.startswith(PATTERN)
            return value if is_choice else [value]
    names = re.split(r"\s*,\s*", value) if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return value
    if len(names) == 1 and names[0] in ("all", "all-linear"):
        return "all-linear"
    found = set(names) - {"qkv_proj", "gate_up_proj"}
    kinds = {**_MODULES, "all-linear": _MODULES["attention"] | _MODULES["mlp"]}
    return next((kind for kind, modules in kinds.items() if modules == found), names)


def _batch(key: str, value: Any, given: Mapping[str, Any]) -> Lead:
    place = "search.effective_batch_size"
    steps = _first(given, _ACCUMULATION)
    if key in ("global_batch_size", "total_batch_size", "train_batch_size"):
        return Lead(place, value)
    rows = _first(given, _ROWS)
    if key == "batch_size" and steps is None:
        return Lead(place, value)
    n_steps = 1 if steps is None else steps
    if rows is None:
        return Lead(
            place, None, f"rows per device × {_plainly(n_steps)} accumulated, times your GPUs"
        )
    products = [
        r * s
        for r in (rows if isinstance(rows, list) else [rows])
        for s in (n_steps if isinstance(n_steps, list) else [n_steps])
        if type(r) is int and type(s) is int
    ]
    note = f"{_plainly(rows)} per device × {_plainly(n_steps)} accumulated, times your GPUs"
    both = sorted(set(products))
    return Lead(place, both[0] if len(both) == 1 else both or None, note)


_ROWS = ("per_device_train_batch_size", "per_device_batch_size", "micro_batch_size", "batch_size")
_ACCUMULATION = tuple(key for key in HERE if "accum" in key)


def _first(given: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    found = (as_domain(given[key]) for key in keys if key in given)
    return next((value for value in found if value is not None), None)


def _plainly(value: Any) -> str:
    return f"({', '.join(map(str, value))})" if isinstance(value, list) else str(value)


def _epochs(key: str, value: Any, given: Mapping[str, Any]) -> Lead:
    if "steps" not in key:
        return Lead("search.epochs", value)
    if is_number(value) and value <= 0:
        return Lead("search.epochs", None, "steps follow from it; remove this")
    rows = _batch("gradient_accumulation_steps", None, given).value
    n_rows = f"{value * rows} rows" if type(rows) is type(value) is int else "steps × batch"
    return Lead("search.epochs", None, f"{n_rows} ÷ the rows of data.train")


def _warmup(key: str, value: Any, given: Mapping[str, Any]) -> Lead:
    place, steps = "search.warmup_ratio", _first(given, ("max_steps", "max_train_steps"))
    if is_number(value) and 0 <= value < 1:  # transformers 5 takes a share as warmup_steps
        return Lead(place, value)
    if is_number(value) and is_number(steps) and value < steps:
        note = f"{value} of {steps} steps"
        return Lead(place, float(f"{value / steps:.3g}"), note)
    return Lead(place, None, "a share of the steps, such as 0.03")


def _quantization(key: str, value: Any, given: Mapping[str, Any]) -> Lead | None:
    if (key, value) in (("finetuning_type", "full"), ("finetuning_type", "freeze")):
        return None
    bits, method = given.get("quantization_bit"), str(given.get("quantization_method", "bnb"))
    kind = str(given.get("bnb_4bit_quant_type", "nf4"))
    if method not in ("bnb", "bitsandbytes") or bits not in (None, 4, 8) or kind != "nf4":
        return Lead("quantization", None, "nf4, int8 or none")
    if key in ("quantization_config", "quant_type"):
        return Lead("quantization", translated("quantization", value))
    if given.get("load_in_8bit") is True or bits == 8:
        return Lead("quantization", "int8")
    is_4_bit = given.get("load_in_4bit") is True or bits == 4 or given.get("adapter") == "qlora"
    # The base model is in 4 bits here by default: who had it in 16 bits has to say so.
    return Lead("quantization", "nf4" if is_4_bit else "none")


def _compute_dtype(key: str, value: Any, given: Mapping[str, Any]) -> Lead:
    place = "compute_dtype"
    if not (isinstance(value, bool) or value == "auto" or value is None):
        return Lead(place, translated(place, value))
    if value == "auto":
        return Lead(place, "auto")
    on = [name for name in HERE if HERE[name] == place and as_domain(given.get(name)) is True]
    for names, ours in _SWITCHES.items():
        if set(names) & set(on):
            return Lead(place, ours)
    if any(as_domain(given.get(name)) == "auto" for name in ("bf16", "fp16")):
        return Lead(place, "auto")
    both = given.get("bf16") is False and given.get("fp16") is False
    return Lead(place, "float32" if both else "auto")


_SWITCHES = {
    ("bf16", "bfloat16", "pure_bf16"): "bfloat16",
    ("fp16", "float16"): "float16",
    ("float32",): "float32",
}


def _rows_of(value: Any) -> list[str] | None:
    """Files and hub data sets of a list as Axolotl and TRL write it; None: not all are told."""
    names: list[str] = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str):
            names += re.split(r"\s*,\s*", item)
        elif isinstance(item, Mapping):
            files, path, split = item.get("data_files"), item.get("path"), item.get("split")
            if files is None and split not in (None, "train") and re.fullmatch(r"\w+", str(split)):
                path = f"{path}:{split}"
            names += files if isinstance(files, list) else [str(files or path)]
    # A bare name is one of LLaMA-Factory's dataset_info.json, or a builder of `datasets`.
    return names if names and all(re.search(r"[/.]", str(name)) for name in names) else None


def _data(key: str, value: Any, given: Mapping[str, Any]) -> Lead:
    place = HERE[key]
    if is_number(value):
        share = value / 100 if key == "validation_split_percentage" else value
        return Lead(place, share)
    if "split" in key and isinstance(value, str):
        name = given.get("dataset_name", given.get("dataset"))
        named = f"{name}:{value}" if isinstance(name, str) and re.fullmatch(r"\w+", value) else None
        return Lead(place, named, "" if named else "org/name:split")
    names = _rows_of(value)
    note = "" if names else "a file, a hub data set as org/name, or a list"
    return Lead(place, names[0] if names and len(names) == 1 else names, note)


def _loss_on(key: str, value: Any, given: Mapping[str, Any]) -> Lead:
    if not isinstance(value, bool):
        return Lead("data.loss_on", None, "completion or all")
    is_whole = value if key in ("train_on_inputs", "train_on_prompt") else not value
    others = ("completion_only_loss", "assistant_only_loss")
    if key in others and any(given.get(other) is True for other in others):
        is_whole = False
    return Lead("data.loss_on", "all" if is_whole else "completion")


def _hours(key: str, value: Any, given: Mapping[str, Any]) -> Lead:
    hours = float(f"{value / 3600:.4g}") if is_number(value) else None
    return Lead("budget.hours", hours, "hours, not seconds")


def _trials(key: str, value: Any, given: Mapping[str, Any]) -> Lead:
    if is_number(value) and value < 1:
        return Lead("budget.trials", None, "without a limit, give `budget.hours`")
    return Lead("budget.trials", value)


def _times(key: str, value: Any, given: Mapping[str, Any]) -> Lead:
    epochs = _first(given, ("num_epochs", "num_train_epochs"))
    steps, times = given.get("max_steps"), None
    if key == "evals_per_epoch" and is_number(value) and is_number(epochs):
        times = round(value * epochs) if math.isfinite(value * epochs) else None
    elif key == "eval_steps" and is_number(value) and 0 < value < 1:
        times = round(1 / value)
    elif key == "eval_steps" and type(value) is type(steps) is int and value > 0:
        times = steps // value
    return Lead("evaluate.times", times, "evaluations in a full trial")


def _metric(key: str, value: Any, given: Mapping[str, Any]) -> Lead:
    place = "objective.metric"
    if key == "compute_accuracy":
        return Lead(place, "token_accuracy" if value is True else None)
    name = value.get("name") if isinstance(value, Mapping) else value
    return Lead(place, translated(place, name))


def _direction(key: str, value: Any, given: Mapping[str, Any]) -> Lead:
    if isinstance(value, bool):
        value = "maximize" if value else "minimize"
    return Lead("objective.direction", translated("objective.direction", value))


def _outclassed(key: str, value: Any, given: Mapping[str, Any]) -> Lead:
    place = "pruning.outclassed"
    known = HYPERPARAMETERS["lr_scheduler"].names
    if key == "scheduler" and translated("search.lr_scheduler", value) in known:
        return Lead("search.lr_scheduler", translated("search.lr_scheduler", value))
    kind = value.get("type") if isinstance(value, Mapping) else value
    if str(kind).lower() in ("noppruner", "fifo", "fifoscheduler"):
        return Lead(place, False)
    pruner = translated(f"{place}.pruner", kind)
    factor = value.get("eta") if isinstance(value, Mapping) else None
    more = {"factor": factor} if isinstance(factor, int) else {}
    return Lead(place, {"pruner": pruner, **more} if isinstance(pruner, str) else None)


def _template(key: str, value: Any, given: Mapping[str, Any]) -> Lead:
    if key == "template" and isinstance(value, str) and "{" in value and "{%" not in value:
        return Lead("data.template", value)
    is_told = isinstance(value, str) and (value == "chatml" or value.endswith(".jinja"))
    note = "" if is_told else "without it the tokenizer's own is used"
    return Lead("data.chat_template", value if is_told else None, note)


def _arguments(key: str, value: Any, given: Mapping[str, Any]) -> Lead:
    if key != "chat_template_kwargs" and value is not None:
        value = {key: value}
    return Lead("data.template_arguments", value)


def _columns(key: str, value: Any, given: Mapping[str, Any]) -> Lead:
    ours = _COLUMNS.get(key)
    return Lead("data.columns", {ours: value} if ours and isinstance(value, str) else value)


_COLUMNS = {
    **dict.fromkeys(("dataset_text_field", "text_column", "text_field"), "text"),
    **dict.fromkeys(("prompt_column", "input_column"), "prompt"),
    **dict.fromkeys(("response_column", "output_column"), "completion"),
    **dict.fromkeys(("field_messages", "messages_field"), "messages"),
    **{f"field_{name}": name for name in ("instruction", "input", "output")},
}


def _gpus(key: str, value: Any, given: Mapping[str, Any]) -> Lead:
    if isinstance(value, Mapping):
        value = next((value[name] for name in ("gpu", "GPU", "num_gpus") if name in value), None)
    return Lead("gpus_per_trial", value)


def _backend(key: str, value: Any, given: Mapping[str, Any]) -> Lead:
    return Lead("backend", "unsloth" if value is True else "transformers")


def _target_modules(key: str, value: Any, given: Mapping[str, Any]) -> Lead:
    if key == "lora_target_linear":
        value = "all-linear" if value is True else given.get("lora_target_modules")
    return Lead("search.target_modules", translated("search.target_modules", value))


_SPECIAL: Mapping[str, Callable[[str, Any, Mapping[str, Any]], Lead | None]] = {
    "search.effective_batch_size": _batch,
    "search.epochs": _epochs,
    "search.warmup_ratio": _warmup,
    "search.target_modules": _target_modules,
    "quantization": _quantization,
    "compute_dtype": _compute_dtype,
    "data.train": _data,
    "data.eval": _data,
    "data.loss_on": _loss_on,
    "data.chat_template": _template,
    "data.template_arguments": _arguments,
    "data.columns": _columns,
    "budget.hours": _hours,
    "budget.trials": _trials,
    "evaluate.times": _times,
    "objective.metric": _metric,
    "objective.direction": _direction,
    "pruning.outclassed": _outclassed,
    "gpus_per_trial": _gpus,
    "backend": _backend,
}


def in_yaml(place: str, value: Any) -> str:
    """A dotted key and its value on one line of YAML."""
    *sections, key = place.split(".")
    text = f"{key}: {_flow(value)}"
    for section in reversed(sections):
        text = f"{section}: {{{text}}}"
    return text


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_flow(one)}' for key, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_./][\w./:@-]*", value):
        return (
            value if value.lower() not in ("true", "false", "null", "yes", "no") else f"'{value}'"
        )
    return shown(value)
