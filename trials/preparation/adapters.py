"""The adapters that a study may train, built by peft itself on a model without weights."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from peft import LoraConfig, get_peft_model

from trials.config import AdapterChoices, ConfigError
from trials.models import vllm
from trials.models.lora import (
    adapted_names,
    misread_names,
    put_on,
    shortest,
    take_off_adapter,
    trained_parameters,
)
from trials.models.presets import EARLIER_TARGETS
from trials.models.shapes import carries_state, was_loaded_as_text
from trials.models.target_modules import Targets, adaptable, by_kind, find


def adapters(
    shapes: Any, asked: AdapterChoices, quantised: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Describe each adapter that is searched, at the largest rank.

    Args:
        shapes: The model on the meta device; given back as it was.
        quantised: Names of the weights that are quantised.

    Returns:
        Of each choice of modules: `target`, `experts`, `modules` (by kind, in words), `names` and
        `parameters` (what a trainer is told), `trained` (parameters), `untouched` (the share of
        the base's parameters that are neither adapted nor quantised), `digest` of the full names,
        `earlier`: the same as an earlier version would have had it, `layers`: adapted ones, and
        all.

    Raises:
        ConfigError: A choice matches nothing, or nothing that can be adapted; all are told.
    """
    found, problems = [], []
    for target in asked.target_modules:
        for experts in asked.experts:
            try:
                targets = find(shapes, target, experts=experts)
                one = _described(shapes, asked, target, targets, experts=experts)
                found.append({**one, "untouched": _untouched(shapes, targets, quantised)})
            except ConfigError as error:
                problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    return found


def with_largest(shapes: Any, found: Sequence[Mapping[str, Any]], asked: AdapterChoices) -> Any:
    """Return the model on the meta device with the adapter on it that has the most parameters."""
    largest = max(found, key=lambda one: int(one["trained"]))
    targets = find(shapes, largest["target"], experts=largest["experts"])
    settings = {"r": asked.largest_rank, "use_dora": asked.use_dora, **_placed(targets)}
    settings["lora_dropout"] = asked.largest_dropout
    return put_on(shapes, settings, is_empty=True)


def _described(
    shapes: Any, asked: AdapterChoices, target: str, targets: Targets, *, experts: bool
) -> dict[str, Any]:
    misread = misread_names(shapes, list(targets.modules))
    if misread and asked.use_dora:
        raise ConfigError(
            f"search.use_dora: must be false where search.target_modules is {target}, since peft "
            f"could not read DoRA on {misread[0]} again (huggingface/peft issue 3711); or choose "
            f"modules without {misread[0].rpartition('.')[2]}."
        )
    return {
        "target": target,
        "experts": experts,
        "modules": by_kind(targets.modules, targets.parameters),
        "names": shortest(targets.modules, dict(shapes.named_modules())),
        "parameters": list(targets.parameters),
        "trained": _trained(shapes, asked, targets),
        "digest": _digest([*targets.modules, *targets.parameters]),
        "earlier": None if experts else _earlier(shapes, target),
        "layers": [len(_layers(targets.modules)), len(_layers(adaptable(shapes)))],
    }


def _untouched(shapes: Any, targets: Targets, quantised: Collection[str]) -> float:
    touched = {*(f"{name}.weight" for name in targets.modules), *targets.parameters, *quantised}
    sizes = {name: parameter.numel() for name, parameter in shapes.named_parameters()}
    untouched = sum(n for name, n in sizes.items() if name not in touched)
    return float(untouched / sum(sizes.values()))


def _layers(names: Iterable[str]) -> set[str]:
    """The decoder layers that modules lie in: names up to their first number."""
    found = (re.match(r".*?\.\d+(?=\.)", name) for name in names)
    return {match[0] for match in found if match}


def notes(shapes: Any, found: Sequence[Mapping[str, Any]], asked: AdapterChoices) -> list[str]:
    """Say what surprises: layers without an adapter, what vLLM would not load."""
    told = []
    by_digest = {one["digest"]: one["target"] for one in found if not one["experts"]}
    for one in found:
        if not one["experts"] and (other := by_digest[one["digest"]]) != one["target"]:
            told.append(
                f"search.target_modules: {one['target']} and {other} adapt the same modules: "
                f"remove one."
            )
    for one in found:
        n, total = one["layers"]
        if n < total and not one["experts"]:
            told.append(
                f"search.target_modules: {one['target']} adapts {n} of the {total} layers: the "
                f"others have none that match."
            )
    for one in found:
        told += vllm.notes(
            shapes.config.model_type,
            one["names"],
            one["parameters"],
            rank=asked.largest_rank,
            use_dora=asked.use_dora,
        )
    return list(dict.fromkeys(told))


def _trained(shapes: Any, asked: AdapterChoices, targets: Targets) -> int:
    """Count the adapter's parameters at ranks 1 and 2, which tells them at any rank."""
    one, two = (
        _count(shapes, {"r": rank, "use_dora": asked.use_dora, **_placed(targets)})
        for rank in (1, 2)
    )
    return one + (two - one) * (asked.largest_rank - 1)


def _placed(targets: Targets) -> dict[str, Any]:
    parameters = list(targets.parameters) or None
    return {"target_modules": list(targets.modules), "target_parameters": parameters}


def _count(shapes: Any, settings: dict[str, Any]) -> int:
    try:
        return trained_parameters(put_on(shapes, settings, is_empty=True))
    except ValueError as error:  # peft takes no such module
        raise ConfigError(f"search.target_modules: peft cannot adapt this model: {error}") from None
    finally:
        take_off_adapter(shapes)


def _earlier(shapes: Any, target: str) -> str | None:
    """The digest of what an earlier version adapted; None: it could not, or knew no such choice.

    Of models whose layers carry a state it says that rows were packed, as they were in 16 bits; of
    wrappers that their text part was loaded alone, under other names.
    """
    if target not in EARLIER_TARGETS:
        return None
    lora = LoraConfig(r=1, target_modules=EARLIER_TARGETS[target], task_type="CAUSAL_LM")
    try:
        with warnings.catch_warnings(action="ignore"):  # it was so, and is not done again
            adapted = get_peft_model(shapes, lora, low_cpu_mem_usage=True)
        otherwise = ", in rows that saw each other" if carries_state(shapes) else ""
        otherwise += ", in the text part alone" if was_loaded_as_text(shapes.config) else ""
        return _digest(list(adapted_names(adapted.get_base_model()))) + otherwise
    except ValueError:
        return None
    finally:
        take_off_adapter(shapes)


def _digest(names: Sequence[str]) -> str:
    text = "\n".join(sorted(names))
    return f"{len(names)} modules, {hashlib.sha256(text.encode()).hexdigest()[:8]}"
