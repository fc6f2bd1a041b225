"""How a base model is quantised by bitsandbytes, in a trial and in the check of what it exported.

Imports nothing of this project, as `trials.exported` needs it.
"""

import functools
import inspect
import re
import sys

import torch
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert

_WEIGHT_IS_READ = re.compile(r"\bself\.(\w+)\.weight\b(?!\.(?:shape|dtype|device)\b|\[)")
"""Its values, that is. The slices are BLOOM's, of tensor parallelism, which fail where used."""

_WEIGHT_IS_CHANGED = re.compile(r"\b\w+\.([\w.]+)\.weight(?:\.data)?\.\w+_\(")


def bitsandbytes_config(
    quantization: str, dtype: torch.dtype, shapes: torch.nn.Module
) -> BitsAndBytesConfig:
    """Return what transformers is told for `nf4` or `int8`.

    Args:
        dtype: Of the matrix products.
        shapes: The model on the meta device.
    """
    # A list of ours replaces transformers' own: without need it is left to find that itself.
    skipped = kept_plain(shapes) if reads_weights(shapes) else None
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=skipped,
    )


def kept_plain(shapes: torch.nn.Module) -> list[str]:
    """Name the modules that are not quantised: the head, what is tied, and `reads_weights`."""
    return sorted({*get_keys_to_not_convert(shapes), *reads_weights(shapes)})


def reads_weights(model: torch.nn.Module) -> list[str]:
    """Name the linear layers whose weight the model's own code takes, past their forward pass.

    Quantised, that code would compute with packed numbers: Gemma 3n clamps them, Mamba multiplies
    by them. An adapter's part would be left out there.
    """
    found = set()
    for path, module in model.named_modules():
        if not (names := _read_by(type(module))):
            continue
        for name, layer in module.named_modules(prefix=path):
            if isinstance(layer, torch.nn.Linear | Conv1D) and f".{name}".endswith(names):
                found.add(name)
    return sorted(found)


def _read_by(kind: type) -> tuple[str, ...]:
    """Ends of the names of linear layers whose weight a module's code takes, or its file's."""
    files = {one.__module__ for one in kind.__mro__ if not one.__module__.startswith("torch.")}
    return tuple({f".{name}" for file in files for name in _read_in(file)})


@functools.cache
def _read_in(file: str) -> set[str]:
    try:
        source = inspect.getsource(sys.modules[file])
    except (OSError, TypeError):  # written in C, or without its source
        return set()
    return {*_WEIGHT_IS_READ.findall(source), *_WEIGHT_IS_CHANGED.findall(source)}


def keep_cpu_kernels_differentiable(model: torch.nn.Module) -> None:
    """Turn off a kernel of bitsandbytes that breaks training after the first evaluation.

    On a CPU with AVX512-BF16, `Linear4bit` repacks its weight in place in the first forward pass
    without gradients, and from then on uses a kernel that has no backward pass, and other losses.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
