"""Which backend trains a space: Unsloth or transformers."""

import importlib.util

from sweep.errors import SpaceError
from sweep.space.space import Space
from trials.config import Backend
from trials.models.unsloth_kernels import objection


def choose_backend(space: Space, *, on_gpus: bool) -> Backend:
    """The backend of a space; auto is Unsloth where nothing speaks against it.

    Raises:
        SpaceError: Unsloth is asked for and not installed, or is not for this base model.
    """
    asked = space.settings.backend
    if asked == "unsloth" and not _has_unsloth():
        raise SpaceError(
            "backend: unsloth needs its extra: pip install -c constraints.txt -e '.[unsloth]', "
            "or write backend: transformers."
        )
    if asked == "unsloth" and (why := _against_kernels(space)):
        raise SpaceError(f"backend: {why}; write auto, or backend: transformers.")
    if asked != "auto":
        return asked
    return "transformers" if _against_unsloth(space, on_gpus=on_gpus) else "unsloth"


def backend_in_words(space: Space, *, on_gpus: bool) -> str:
    """The backend that is chosen, and why."""
    backend = choose_backend(space, on_gpus=on_gpus)
    if space.settings.backend != "auto":
        return f"{backend} (set in the file)"
    if backend == "unsloth":
        return "unsloth (installed; backend: transformers switches it off)"
    return f"transformers ({_against_unsloth(space, on_gpus=on_gpus)})"


def backend_notes(space: Space, backend: Backend) -> list[str]:
    """What somebody who waits for trials should know of the backend."""
    if backend == "unsloth" and space.may_be("use_dora", True):
        # Read in the source of 2026.10.7 (kernels/fast_lora.py): it leaves DoRA to peft's own code.
        return ["Trials with use_dora: true run without Unsloth's fast LoRA kernels."]
    return []


def _has_unsloth() -> bool:
    return importlib.util.find_spec("unsloth") is not None


def _against_unsloth(space: Space, *, on_gpus: bool) -> str | None:
    """Say why auto does not choose Unsloth, or None."""
    settings = space.settings
    if not space.objective.is_eval_loss:
        return "Unsloth measures only eval loss"
    if not on_gpus:
        return "trials run on CPUs"
    if settings.gpus_per_trial > 1:
        return "Unsloth trains on one GPU"
    if space.may_be("use_dora", True):
        return "Unsloth has no kernels for use_dora"
    if settings.compute_dtype == "float32":
        return "Unsloth's kernels compute in 16 bits"
    if not _has_unsloth():
        return "Unsloth is not installed"
    if (form := space.checkpoint) is not None and form.is_dequantised:
        return f"Unsloth does not turn {form.name} into 16 bits"
    if space.base_config is None:
        return "Unsloth is not for every model, and this one's config.json cannot be read here"
    return _against_kernels(space)


def _against_kernels(space: Space) -> str | None:
    return objection(
        space.base_config,
        name=space.settings.base_model,
        quantization=space.quantization,
        max_length=int(space.largest["max_length"]),
        trust_remote_code=space.settings.trust_remote_code,
    )
