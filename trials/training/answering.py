"""Have an adapter that is there, or the base model, answer the held-out prompts of a sweep."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from trials.config import TrialConfig, TrialResult
from trials.distributed.group import ALONE, Group
from trials.evaluation.generate import Prompts, generated
from trials.memory.micro_batches import MicroBatchMemory
from trials.models.frozen_base import FrozenBase
from trials.training.measured import put_weights
from trials.trial_folder import ANSWERS
from trials.whole_file import write_whole


def answer_prompts(
    config: TrialConfig,
    base: FrozenBase,
    memory: MicroBatchMemory,
    group: Group = ALONE,
    is_asked_to_stop: Callable[[], bool] = lambda: False,
) -> TrialResult:
    """Write answers.json into the trial's folder: `prompts`, the `true` answers, and `written`.

    Returns:
        A completed trial without an evaluation; or one that was interrupted.

    Raises:
        NotThisAdapter, BaseNotClean: As `measure_adapter`.
    """
    began = time.perf_counter()
    asked = Prompts.load(Path(config.data_dir), "answers")
    model = base.add_adapter(config)  # untrained it leaves the base as it is: B is zero
    was_asked = False

    def is_over() -> bool:
        nonlocal was_asked
        was_asked = is_asked_to_stop()
        return was_asked

    try:
        if config.measured_adapter:
            put_weights(model, Path(config.measured_adapter))
        tokens = memory.evaluated(
            config, partial(generated, base, model, asked, group=group, is_over=is_over)
        )
    finally:
        del model
        base.remove_adapter()
    if was_asked:
        return TrialResult(outcome="interrupted", reason="Interrupted; to be asked again.")
    if group.rank == 0:
        _write(Path(config.output_dir), config, asked, tokens)
    return TrialResult(
        outcome="completed",
        reason=f"Answered {len(asked.prompts)} held-out prompts.",
        evaluation_seconds=time.perf_counter() - began,
    )


def _write(folder: Path, config: TrialConfig, asked: Prompts, tokens: list[list[int]]) -> None:
    reader = asked.reader(config.model)
    found = {
        "prompts": [row["prompt"] for row in asked.rows],
        "true": asked.references,
        "written": [
            reader.shown(prompt, ids, is_cut=len(ids) == asked.max_new_tokens)
            for prompt, ids in zip(asked.prompts, tokens, strict=True)
        ],
    }
    write_whole(folder / ANSWERS, json.dumps(found, indent=1, ensure_ascii=False))
