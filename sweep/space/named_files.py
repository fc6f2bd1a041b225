"""Files, folders and hub names that a space names: are they there?"""

import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sweep.space.hyperparameters import shown
from sweep.space.yaml_file import did_you_mean, shortened
from trials.data.addresses import is_address, local_path, wrong_address
from trials.rendering import chat_templates


def missing(look: Callable[[Path, str], str | None], folder: Path, given: str) -> str | None:
    """Say why a file or a model is not there, or not to be seen."""
    try:
        if (folder / given).is_symlink() and not (folder / given).exists():
            return f"{shown(given)} is a broken link; fix it, or name its target."
        return look(folder, given)
    except OSError as error:  # too long a name, or a folder that may not be entered
        return f"{shown(given)} cannot be accessed: {error.strerror}."


def missing_file(folder: Path, given: str) -> str | None:
    from trials.data.examples import looks_like_hub_id

    if is_address(given):  # looked at by whoever reads it: it may be a path of other machines
        return wrong_address(given)
    path = folder / given
    if path.exists():
        return None
    if re.fullmatch(r"\s*[\d.]+\s*%?\s*", given):
        return f"must be a file or a number such as 0.1 (no % and no quotes), not {shown(given)}."
    siblings = _names_in(path.parent)
    forgot_suffix = [name for name in siblings if name.startswith(f"{path.name}.")]
    if forgot_suffix or not looks_like_hub_id(given):
        near = forgot_suffix or difflib.get_close_matches(path.name, siblings, n=1)
        return _no_such("file", folder, given, near)
    return None


MODEL_FILES: Mapping[str, Sequence[str]] = {
    "config.json": ("config.json",),
    "a tokenizer (tokenizer.json)": ("*token*", "vocab*", "*.model"),
    "weights (model.safetensors)": ("model.safetensors", "model.safetensors.index.json"),
}
_HUB_MODEL = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)


def missing_model(folder: Path, given: str) -> str | None:
    """Say why `given` can be no base model, as far as that is known without a network."""
    from trials.models.smollm2 import NAME

    path = folder / local_path(given)
    if is_address(given) and not path.is_dir():  # it may be a folder of other machines
        return wrong_address(given, schemes=())
    if path.is_dir():
        lacks = [
            what
            for what, names in MODEL_FILES.items()
            if not any(file for name in names for file in path.glob(name))
        ]
        if not lacks:
            return None
        if (path / "adapter_config.json").exists():
            rule = f"must be a whole model, but {given} is an adapter; name its base model."
            return f"{rule}{_base_of(path)}"
        rule = f"a model's folder must hold {', '.join(MODEL_FILES)}"
        return f"{rule}; missing in {given}: {', '.join(lacks)}.{_only_pickles(path)}"
    if path.is_file():
        return f"must be a hub id or a folder, but {given} is a file; name its folder."
    if not _HUB_MODEL.fullmatch(given):
        near = difflib.get_close_matches(path.name, _names_in(path.parent), n=1)
        return _no_such("folder", folder, given, near)
    if given != NAME and "/" not in given and difflib.get_close_matches(given, [NAME], cutoff=0.8):
        return f"no such model: {given}; did you mean {NAME}?"
    return None


def missing_template(folder: Path, given: str) -> str | None:
    """Say why `given` can be no chat template: neither a Jinja file nor a known name."""
    path = folder / given
    if path.suffix != chat_templates.SUFFIX:
        known = chat_templates.names()
        if given in known:
            return None
        near = difflib.get_close_matches(given.lower(), known, n=1, cutoff=0.7)
        mend = did_you_mean(near) if near else ""
        rule = "must be a Jinja file beside this one, such as mine.jinja, or a known name"
        return f"{rule}, not {shortened(given)}{mend or '.'} Known: {', '.join(known)}."
    if not path.exists():
        near = difflib.get_close_matches(path.name, _names_in(path.parent), n=1)
        return _no_such("file", folder, given, near)
    if not path.is_file():
        return f"{given} must be a file, not a folder or a pipe."
    try:
        wrong = chat_templates.syntax_error(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        return f"{given} must be UTF-8, but byte {error.start} is not; save it as UTF-8."
    return None if wrong is None else f"{given} is not valid Jinja: {wrong}. Fix that line."


def _base_of(adapter: Path) -> str:
    if not (adapter / "adapter_config.json").is_file():
        return ""
    try:
        found = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        return f" It was made on {found['base_model_name_or_path']}."
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _only_pickles(folder: Path) -> str:
    pickles = sorted(file.name for kind in ("*.bin", "*.pt", "*.pth") for file in folder.glob(kind))
    if not pickles:
        return ""
    return (
        f" {pickles[0]} is a pickle, which can run code, so it is never read; "
        f"save the model again with save_pretrained, which writes safetensors."
    )


def _names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _no_such(kind: str, folder: Path, given: str, near: Sequence[str]) -> str:
    if near:
        beside = given[: given.rstrip("/").rfind("/") + 1]
        return f"no such {kind}: {shortened(given)}{did_you_mean([beside + near[0]])}"
    if given.startswith("~"):
        return f"no such {kind}: {shortened(given)}; write the full path in place of ~."
    place = f"paths start at this file's folder, {folder.resolve()}"
    return f"no such {kind}: {shortened(given)} ({place})."
