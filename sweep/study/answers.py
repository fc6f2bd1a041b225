"""Who answers the held-out prompts at a sweep's end, and where their answers lie.

Each has a folder below `answers/` of the sweep's, as a measurement of the final evaluation has:
`base/`, and `007/` of trial 7. What has been answered is not asked again.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sweep.errors import StudyError
from sweep.folder import layout
from sweep.study.final import FinalEvaluation, Measurement, adapter_of
from trials.config import TrialConfig
from trials.foreign_text import all_cleaned
from trials.trial_folder import ANSWERS, QUESTIONS, read_json

TITLE = "Answers to held-out prompts"


@dataclass(frozen=True, slots=True)
class Answers:
    """What one model has answered, as it may be shown anywhere."""

    prompts: list[str]
    true: list[str]
    """What stood in the data."""
    written: list[str]


def answering(folder: Path, configs: Mapping[int, TrialConfig]) -> FinalEvaluation:
    """Return what is to be asked, the base model last; answers to other prompts are forgotten.

    Args:
        folder: The sweep's.
        configs: Of the trials that answer, by number.
    """
    asked = read_json(folder / layout.DATA / QUESTIONS, dict, holds="prompts", mend="") or {}
    questions = [row["prompt"] for row in asked.get("rows", [])]
    wanted = all_cleaned([questions, asked.get("references")])
    usual = next(iter(configs.values()))
    found = []
    for number, trial in enumerate([*configs, None]):
        there = output_dir(folder, trial)
        known = read_answers(folder, trial)
        if known is None or [known.prompts, known.true] != wanted:
            shutil.rmtree(there, ignore_errors=True)
        config = replace(
            usual if trial is None else configs[trial],
            number=number,
            output_dir=str(there.resolve()),
            model=replace(usual.model, backend="transformers"),  # Unsloth generates nothing
            answers=True,
            measured_adapter=adapter_of(folder, trial),
            evaluate_base=False,
        )
        found.append(Measurement(trial, config))
    return FinalEvaluation(found, TITLE)


def output_dir(folder: Path, trial: int | None) -> Path:
    """Return where the answers of a trial lie; None: those of the base model."""
    return folder / layout.ANSWERS / ("base" if trial is None else f"{trial:03d}")


def read_answers(folder: Path, trial: int | None) -> Answers | None:
    """Return what a trial has answered, or the base model; None: nothing yet.

    Raises:
        StudyError: The file cannot be read.
    """
    there = output_dir(folder, trial)
    mend = f"Remove {there}: the sweep's command asks anew."
    path, holds = there / ANSWERS, "answers to prompts"
    found = read_json(path, dict, holds=holds, mend=mend, error=StudyError)
    if found is None:
        return None
    try:
        return Answers(**all_cleaned(found))
    except TypeError:
        raise StudyError(f"{path}: must hold {holds}, but has {[*found]}. {mend}") from None


def forget_answers(folder: Path) -> bool:
    """Remove all answers; return whether there were any."""
    were_there = (folder / layout.ANSWERS).exists()
    shutil.rmtree(folder / layout.ANSWERS, ignore_errors=True)
    (folder / layout.ANSWERS_TABLE).unlink(missing_ok=True)
    return were_there
