"""What was exported, used as its receiver would: with torch, transformers and peft alone.

Run in a process of its own: `python -m trials.exported REQUEST.json ANSWER.json`. Of this project
it imports only how a base is quantised, so that a loss measured here needs nothing else of it.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own spelling
import transformers
from peft import PeftConfig, PeftModel
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    FineGrainedFP8Config,
    Mxfp4Config,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils import cached_file

from trials.models.quantisation import bitsandbytes_config, keep_cpu_kernels_differentiable
from trials.whole_file import give_usual_mode

IGNORED = -100
BATCH_SIZE = 8
"""Rows of a forward pass, the longest together."""

PROCESSOR_FILES = (
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
)
"""How a model reads images and sounds."""
Row = dict[str, list[int]]
"""`input_ids` and `labels`; a label is -100 where there is no loss."""


def dtype_of(compute_dtype: str) -> torch.dtype:
    """Return the type of the matrix products, as a trial of that setting has it here."""
    if compute_dtype != "auto":
        named: torch.dtype = getattr(torch, compute_dtype)
        return named
    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def merge(request: dict[str, Any], target: Path) -> None:
    """Write the base model in 16 bits with the adapter added to its weights, and the tokenizer."""
    dtype = dtype_of(request["compute_dtype"])
    dtype = torch.bfloat16 if dtype is torch.float32 else dtype
    base = _in_16_bits(request, {"dtype": dtype, "use_safetensors": True})
    # safe_merge: an adapter with values that are no numbers is refused.
    merged = PeftModel.from_pretrained(base, request["adapter"]).merge_and_unload(safe_merge=True)
    merged.save_pretrained(target)
    give_usual_mode(target.glob("*.safetensors"))
    # The adapter's has the chat template that it was trained with; older ones have none.
    is_there = (Path(request["adapter"]) / "tokenizer_config.json").exists()
    source = request["adapter"] if is_there else request["base"]
    AutoTokenizer.from_pretrained(source, **_where(request)).save_pretrained(target)
    _copy_processor(request, target)


def _copy_processor(request: dict[str, Any], target: Path) -> None:
    """Copy it as it is, but for a chat template: it would win over the one trained with."""
    quiet = ("missing_entries", "connection_errors", "gated_repo")
    for name in PROCESSOR_FILES:
        file = cached_file(
            request["base"],
            name,
            revision=request["revision"],
            **{f"_raise_exceptions_for_{kind}": False for kind in quiet},
        )
        about = json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
        if (target / "chat_template.jinja").exists():
            about.pop("chat_template", None)
        if about:
            (target / name).write_text(json.dumps(about, indent=2), encoding="utf-8")


def load(request: dict[str, Any], quantization: str) -> Any:
    """Return the exported model: merged, or the adapter on its base in `quantization`."""
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    dtype = dtype_of(request["compute_dtype"])
    settings: dict[str, Any] = {"dtype": dtype, "device_map": {"": device}, "use_safetensors": True}
    if request["is_merged"]:
        return (
            _class_of(request)
            .from_pretrained(
                request["exported"], trust_remote_code=request["trust_remote_code"], **settings
            )
            .eval()
        )
    if quantization == "none":
        base = _in_16_bits(request, settings)
        return PeftModel.from_pretrained(base, request["exported"]).eval()
    if not _own_form(request):  # a checkpoint that is quantised already stays as it is
        shapes = _on_meta(request)
        settings["quantization_config"] = bitsandbytes_config(quantization, dtype, shapes)
    base = _class_of(request).from_pretrained(request["base"], **_where(request), **settings)
    keep_cpu_kernels_differentiable(base)
    return PeftModel.from_pretrained(base, request["exported"]).eval()


def _on_meta(request: dict[str, Any]) -> Any:
    config = AutoConfig.from_pretrained(request["base"], **_where(request))
    kind = _class_of(request)
    with torch.device("meta"):
        if hasattr(kind, "from_config"):  # an Auto class
            return kind.from_config(config, trust_remote_code=request["trust_remote_code"])
        return kind._from_config(config)


def _class_of(request: dict[str, Any]) -> Any:
    """Return the class that the adapter was trained on, as peft notes it for all but text models.

    Adapters of older versions, of which it notes none, were trained on what this class loads.
    """
    noted = PeftConfig.from_pretrained(request["adapter"]).auto_mapping or {}
    return getattr(transformers, noted.get("base_model_class", ""), AutoModelForCausalLM)


def _own_form(request: dict[str, Any]) -> dict[str, Any]:
    """What the base's config.json says of weights that are quantised already; {}: plain ones."""
    config = AutoConfig.from_pretrained(request["base"], **_where(request))
    text = config.get_text_config()
    own = getattr(config, "quantization_config", None) or getattr(text, "quantization_config", None)
    return own or {}


def _in_16_bits(request: dict[str, Any], settings: dict[str, Any]) -> Any:
    """Return the base model, whatever its checkpoint is quantised in, without quantisation."""
    own = _own_form(request)
    method = own.get("quant_method")
    ways = {"fp8": FineGrainedFP8Config, "mxfp4": Mxfp4Config}
    given = {"quantization_config": ways[method](dequantize=True)} if method in ways else {}
    base = _class_of(request).from_pretrained(
        request["base"], **_where(request), **settings, **given
    )
    if not own:
        return base
    if not given:
        base = base.dequantize(dtype=settings["dtype"])
        _put_back_conv1d(base, _on_meta(request))
    # Else saving would quantise again, which transformers cannot: only the model's own renaming.
    base._weight_conversions = None
    return base


def _put_back_conv1d(base: Any, shapes: Any) -> None:
    """Give GPT-2 the layers back that hold (in, out): dequantised they are (out, in)."""
    for name, module in shapes.named_modules():
        linear = base.get_submodule(name)
        if isinstance(module, Conv1D) and not isinstance(linear, Conv1D):
            module.weight = torch.nn.Parameter(linear.weight.data.t().contiguous())
            module.bias = linear.bias
            base.set_submodule(name, module)


def _where(request: dict[str, Any]) -> dict[str, Any]:
    return {name: request[name] for name in ("revision", "trust_remote_code")}


@torch.no_grad()
def eval_loss(model: Any, rows: Sequence[Row], dtype: torch.dtype) -> float:
    """Return the mean negative log-likelihood per supervised token, in nats.

    Summed over all tokens and divided once. The first token of a row is never a target.
    """
    device = next(model.parameters()).device
    nats, n_tokens = 0.0, 0
    by_length = sorted(rows, key=lambda row: len(row["input_ids"]))
    for batch in (by_length[at : at + BATCH_SIZE] for at in range(0, len(rows), BATCH_SIZE)):
        ids = _padded([row["input_ids"] for row in batch], 0).to(device)
        mask = _padded([[1] * len(row["input_ids"]) for row in batch], 0).to(device)
        labels = _padded([row["labels"] for row in batch], IGNORED).to(device)[:, 1:]
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        # (batch, sequence - 1, vocabulary), in 32 bits where there is loss
        is_target = labels != IGNORED
        nats += float(
            F.cross_entropy(logits[is_target].float(), labels[is_target], reduction="sum")
        )
        n_tokens += int(is_target.sum())
    return nats / n_tokens


def _padded(rows: Sequence[list[int]], padding: int) -> torch.Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], True, padding)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked: merge, or measure the eval loss for each `quantizations`."""
    if request["task"] == "merge":
        merge(request, Path(request["exported"]))
        return {}
    with Path(request["rows"]).open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    dtype = dtype_of(request["compute_dtype"])
    return {kind: eval_loss(load(request, kind), rows, dtype) for kind in request["quantizations"]}


def main(request_path: str, answer_path: str) -> None:
    found = answer(json.loads(Path(request_path).read_text(encoding="utf-8")))
    Path(answer_path).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
