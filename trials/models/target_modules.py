"""Which modules of a model an adapter lies on: those of a preset, a list of names, a pattern."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from trials.config import PATTERN, PRESETS, ConfigError
from trials.models.quantisation import reads_weights


class Kind(StrEnum):
    """What a linear layer is for."""

    ATTENTION = "attention"
    MLP = "MLP"
    SHARED = "shared experts"
    ROUTED = "routed experts"
    OTHER = "other layers"
    """Such as state-space models, convolutions, gates of layers."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What an adapter lies on, by full names."""

    modules: Mapping[str, Kind]
    parameters: tuple[str, ...] = ()
    """Weights of routed experts that are one tensor, (experts, …, …)."""


QUERIES_AND_VALUES = frozenset(
    # Some have keys in the same matrix; of multi-head latent attention it is the upper one.
    "q_proj v_proj kv_proj qkv_proj q_b_proj kv_b_proj query_key_value c_attn Wqkv q v query value "
    "wq wv qkv in_proj_qkv in_proj_qkvz".split()
)
_ATTENTION = re.compile("attn|attention|DeltaNet", re.I)
_MLP = re.compile("mlp|ffn|feed_?forward", re.I)
_BY_LEAF = {
    **dict.fromkeys("fc1 fc2 gate_proj up_proj down_proj gate_up_proj".split(), Kind.MLP),
    **dict.fromkeys("q_proj k_proj v_proj o_proj qkv_proj".split(), Kind.ATTENTION),
}
"""Where no module around it says it: OPT has its MLP in the layer itself."""

_PRESETS: Mapping[str, Callable[[str, Kind], bool]] = {
    "all-linear": lambda leaf, kind: True,
    "attention": lambda leaf, kind: kind is Kind.ATTENTION,
    "mlp": lambda leaf, kind: kind in (Kind.MLP, Kind.SHARED),
    "qv": lambda leaf, kind: kind is Kind.ATTENTION and leaf in QUERIES_AND_VALUES,
}
assert _PRESETS.keys() == set(PRESETS)


def find(model: Any, target: str, *, experts: bool = False) -> Targets:
    """Return what of a model of transformers is adapted; it may be on the meta device.

    Args:
        target: A preset, `re:` and a pattern of full names, or names (whole or their ends) with
            commas between them.
        experts: Whether routed experts are, too.

    Raises:
        ConfigError: It matches nothing, or what cannot be adapted.
    """
    linears = adaptable(model)
    routed = {name: kind for name, kind in linears.items() if kind is Kind.ROUTED}
    fused = tuple(_fused_experts(model)) if experts else ()
    if experts and not routed and not fused:
        raise ConfigError(
            f"search.experts: the model must have routed experts, but {_called(model)} has none "
            f"that peft can adapt. Remove it."
        )
    others = {name: kind for name, kind in linears.items() if name not in routed}
    found = _chosen(model, target, others)
    if not found and not (experts and target in _PRESETS):
        raise ConfigError(
            f"search.target_modules: {target} must match modules of the base model, but matches "
            f"none of {_called(model)}. {_its_modules(model, others)}"
        )
    return Targets(found | (routed if experts else {}), fused)


def adaptable(model: Any) -> dict[str, Kind]:
    """Return the linear layers of the text model, by full name.

    Without the head; routers, which choose among experts; layers whose weights the model's code
    takes past their forward pass, where an adapter would be left out. Towers of images and sounds
    are no part of it, nor are indexers: they would never see a gradient.
    """
    read = set(reads_weights(model))
    prefix = _decoder_prefix(model)
    return {
        name: _kind(model, name)
        for name in _linears(model, prefix)
        if not (name in read or _is_router(model, name) or _is_own_adapter(name))
        and not _SEES_NO_GRADIENT.search(name.removeprefix(prefix))
    }


_SEES_NO_GRADIENT = re.compile(r"vision|image|audio|(^|\.)indexer\.")
"""Phi-4 has towers in its decoder; the indexers of DeepSeek V3.2 choose which keys are seen."""


def _linears(model: Any, prefix: str = "") -> Iterator[str]:
    ends = (model.get_output_embeddings(), model.get_input_embeddings())
    for name, module in model.named_modules():
        is_linear = isinstance(module, torch.nn.Linear | Conv1D)
        if is_linear and name.startswith(prefix) and not any(module is end for end in ends):
            yield name


def _decoder_prefix(model: Any) -> str:
    decoder = model.get_decoder()
    if not any(True for _ in decoder.children()):  # ModernBERT's `decoder` is its head
        decoder = model.base_model
    name = next((name for name, module in model.named_modules() if module is decoder), "")
    return f"{name}." if name else ""


def _around(model: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The modules that a module lies in, the nearest first: each one's last name, and itself."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name.rpartition(".")[2], model.get_submodule(name)


def _kind(model: Any, name: str) -> Kind:
    *parts, leaf = name.split(".")
    if any(part.endswith("experts") and "shared" not in part for part in parts):
        return Kind.ROUTED
    for called, module in _around(model, name):
        told = f"{called} {type(module).__name__}"
        if _MLP.search(told):
            is_shared = any(part.startswith(("shared_expert", "shared_mlp")) for part in parts)
            return Kind.SHARED if is_shared else Kind.MLP
        if _ATTENTION.search(told):
            return Kind.ATTENTION
    return _BY_LEAF.get(leaf, Kind.OTHER)


def _is_router(model: Any, name: str) -> bool:
    parts = name.split(".")
    if any(part.endswith("router") for part in parts):
        return True
    for at, part in enumerate(parts):
        if part in ("gate", "shared_expert_gate"):
            parent = model.get_submodule(".".join(parts[:at]))
            return any("expert" in child for child, _ in parent.named_children())
    n_outputs = getattr(model.get_submodule(name), "out_features", None)
    return any(n == n_outputs for n in _experts_within(next(_around(model, name), ("", model))[1]))


def _experts_within(block: Any) -> Iterator[int]:
    """How many routed experts it has; a router beside them, whatever its name, has an output of
    each."""
    for name, child in block.named_children():
        if name.endswith("experts") and "shared" not in name:
            fused = (len(weight) for weight in child.parameters() if weight.dim() == 3)
            yield len(child) if isinstance(child, torch.nn.ModuleList) else next(fused, 0)


def _is_own_adapter(name: str) -> bool:
    """Zamba2 has adapters of its own in layers that are shared; most are in no place's path."""
    return any(part.endswith("adapter_list") for part in name.split("."))


def _fused_experts(model: Any) -> Iterator[str]:
    prefix = _decoder_prefix(model)
    for name, parameter in model.named_parameters():
        *parts, _ = name.split(".")
        is_routed = any(part.endswith("experts") and "shared" not in part for part in parts)
        # JetMoE's `mlp` has its experts beside their router, by no such name.
        is_routed = is_routed or hasattr(model.get_submodule(".".join(parts[:-1])), "router")
        if name.startswith(prefix) and is_routed and parameter.dim() == 3:
            yield name


def _chosen(model: Any, target: str, linears: Mapping[str, Kind]) -> dict[str, Kind]:
    if target in _PRESETS:
        wanted = _PRESETS[target]
        return {n: kind for n, kind in linears.items() if wanted(n.rpartition(".")[2], kind)}
    if target.startswith(PATTERN):
        pattern = re.compile(target.removeprefix(PATTERN))
        _check_ends(model, target, pattern)
        return {name: kind for name, kind in linears.items() if pattern.fullmatch(name)}
    return _named(model, target.split(","), linears)


def _check_ends(model: Any, target: str, pattern: re.Pattern[str]) -> None:
    head = model.get_output_embeddings()
    hits = [
        name
        for name, module in model.named_modules()
        if pattern.fullmatch(name) and (module is head or isinstance(module, torch.nn.Embedding))
    ]
    if hits:
        raise ConfigError(
            f"search.target_modules: must not match the head or embeddings, which are not trained, "
            f"but {target} matches {' and '.join(hits)} of {_called(model)}; write a pattern of "
            f"linear layers alone."
        )


def _named(model: Any, names: list[str], linears: Mapping[str, Kind]) -> dict[str, Kind]:
    found: dict[str, Kind] = {}
    problems = []
    for name in names:
        hits = {n: kind for n, kind in linears.items() if _ends_with(n, name)}
        found |= hits
        if not hits:
            problems.append(_why_not(model, name, linears))
    if problems:
        raise ConfigError(
            f"search.target_modules: every name must be a linear layer of {_called(model)} that "
            f"can be adapted, but {'; '.join(problems)}. "
            f"{_its_modules(model, linears)}"
        )
    return {name: kind for name, kind in linears.items() if name in found}


def _ends_with(name: str, wanted: str) -> bool:
    return name == wanted or name.endswith(f".{wanted}")


def _why_not(model: Any, name: str, linears: Mapping[str, Kind]) -> str:
    """Say why a name is not adapted, or which one is near it."""
    ends = {"head": model.get_output_embeddings(), "embedding": model.get_input_embeddings()}
    hits = [(n, m) for n, m in model.named_modules() if _ends_with(n, name)]
    if end := next((end for end, its in ends.items() if any(m is its for _, m in hits)), None):
        return f"{name} is the {end}, which is not trained"
    if hits and not any(n.startswith(_decoder_prefix(model)) for n, _ in hits):
        return f"{name} lies outside the text model, where text gives no gradient"
    if any(_is_router(model, n) for n, _ in hits):
        return f"{name} is a router, which is never adapted"
    if any(_ends_with(n, name) for n in _fused_experts(model)):
        return (
            f"{name} belongs to the routed experts, which search.experts: true adapts: leave it out"
        )
    if hits:
        return f"{name} is no linear layer that is called ({type(hits[0][1]).__name__})"
    near = difflib.get_close_matches(name, {n.rpartition(".")[2] for n in linears}, n=1)
    return f"{name} is not there" + (f" (did you mean {near[0]}?)" if near else "")


def _its_modules(model: Any, linears: Mapping[str, Kind]) -> str:
    has_experts = next(_fused_experts(model), None) is not None
    routed = ", and routed experts (search.experts: true)" if has_experts else ""
    return f"It has {by_kind(linears)}{routed}: give a preset or names that match these."


def by_kind(modules: Mapping[str, Kind], parameters: Sequence[str] = ()) -> str:
    """`attention (4 each of q_proj, o_proj)`: names that are there as often stand together."""
    told = []
    all_of = {**modules, **dict.fromkeys(parameters, Kind.ROUTED)}
    for kind in Kind:
        counts = Counter(_leaf(name) for name, its in all_of.items() if its is kind)
        groups = [
            _each([leaf for leaf in counts if counts[leaf] == n], n)
            for n in dict.fromkeys(counts.values())
        ]
        if groups:
            told.append(f"{kind} ({'; '.join(groups)})")
    return ", ".join(told) if told else "no linear layers"


def _each(leaves: Sequence[str], n: int) -> str:
    return f"{n} each of {', '.join(leaves)}" if len(leaves) > 1 else f"{n} {leaves[0]}"


def _leaf(name: str) -> str:
    """Its last name; with the one before, where the last is a number."""
    parent, _, leaf = name.rpartition(".")
    return f"{_leaf(parent)}.*" if leaf.isdecimal() and parent else leaf


def _called(model: Any) -> str:
    return f"{type(model).__name__} ({model.config.model_type})"
