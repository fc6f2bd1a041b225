"""What peft notes beside an adapter."""

from pathlib import Path
from typing import Any

from sweep.errors import StudyError
from trials.trial_folder import read_json

TEXT_MODEL = "AutoModelForCausalLM"


def base_class(adapter: Path | None) -> str:
    """Return the class of transformers that an adapter's base is loaded with: of a model with
    towers for images or sounds peft notes it beside the adapter."""
    if adapter is None:
        return TEXT_MODEL
    noted = adapter_config(adapter).get("auto_mapping") or {}
    return str(noted.get("base_model_class", TEXT_MODEL))


def adapter_config(adapter: Path) -> dict[str, Any]:
    """Return what peft notes beside an adapter.

    Raises:
        StudyError: It cannot be read.
    """
    mend = "Restore it: MLflow has the trial's adapter too."
    path, holds = adapter / "adapter_config.json", "how peft loads the adapter"
    keys = ("base_model_name_or_path",)
    found = read_json(path, dict, holds=holds, mend=mend, keys=keys, error=StudyError) or {}
    if found and not isinstance(found.get("r"), int):
        raise StudyError(f"{path}: r must be the adapter's rank, not {found.get('r')}. {mend}")
    if not isinstance(noted := found.get("auto_mapping") or {}, dict):
        raise StudyError(f"{path}: auto_mapping must be an object, not {noted}. {mend}")
    return found
