"""`sweep export`: a trial's adapter, or the model merged with it, in a folder; checked."""

import errno
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.errors import ExportError
from sweep.export.model_card import model_card
from sweep.export.training_run import data_of
from sweep.folder import layout
from sweep.results.trial_record import Record
from sweep.study.task import has_its_tokens
from trials.config import Quantization
from trials.data.digests import see_whole
from trials.models.sources import local_or_hub
from trials.parent import run_module
from trials.trial_folder import ADAPTER, EVAL_SAMPLE, read_report
from trials.unfinished import scratch_dir, unfinished
from trials.whole_file import copy_folder

TOLERANCE = 0.01
"""Relative: an exported model's eval loss may be so far from the logged one."""


@dataclass(frozen=True, slots=True)
class Measured:
    """An eval loss of what was exported, beside the logged one, in nats per supervised token."""

    quantization: Quantization
    eval_loss: float
    logged: float
    counts: bool
    """Whether the verdict is this one's."""

    @property
    def difference(self) -> float:
        """Relative to the logged one."""
        return self.eval_loss / self.logged - 1

    @property
    def is_within(self) -> bool:
        """Whether it is near enough to be the same model."""
        return abs(self.difference) <= TOLERANCE


def export(
    record: Record,
    target: Path,
    *,
    merge: bool,
    check: bool,
    say: Callable[[str], None],
    repo: str | None = None,
) -> list[Measured]:
    """Write the export whole or not at all, and measure what it is worth.

    Args:
        check: Load it in a fresh process and measure its eval loss on the sweep's own sample.
        repo: Of the hub, where it goes; its card says how to load it from there.

    Returns:
        What was measured; nothing without `check`.

    Raises:
        ExportError: It cannot be done; nothing is left at `target`.
        StudyError: The trial's configuration is not there.
        DataError: The sweep's sample was changed.
    """
    config, trial = record.needed_config(), record.trial
    if record.adapter is None:
        raise ExportError(no_adapter(record))
    if target.exists():
        raise ExportError(
            f"--to {target}: must not exist yet, but does. Name another folder, or remove it."
        )
    sample = record.sweep.folder / layout.DATA / EVAL_SAMPLE
    if check and not sample.exists():
        raise ExportError(
            f"{sample}: the check needs the sweep's eval sample, which is missing. Export where "
            f"the sweep ran, or use --no-check."
        )
    if check:
        see_whole(sample.parent, [EVAL_SAMPLE])
    if check and _has_other_tokens(record):
        raise ExportError(
            f"{sample}: must hold the tokens that the trial was judged by, but this version has "
            f"made others of the sweep's rows. Use --no-check, or export with the version that ran "
            f"the sweep."
        )
    if check and trial.eval_loss is None:
        raise ExportError(
            f"trial {trial.number} has no eval loss to check against; use --no-check."
        )
    half = unfinished(target)
    request = {
        "base": local_or_hub(config.model.name),
        "revision": config.model.revision,
        "trust_remote_code": config.model.trust_remote_code,
        "compute_dtype": config.model.compute_dtype,
        "adapter": str(record.adapter.resolve()),
        "exported": str(half.resolve()),
        "is_merged": merge,
        "rows": str(sample.resolve()),
    }
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if merge:
            say(f"merging trial {trial.number} into {config.model.name}, in 16 bits")
            half.mkdir()
            _ask({**request, "task": "merge"})
        else:
            copy_folder(record.adapter, half)
        data = data_of(record)
        card = model_card(
            record,
            is_merged=merge,
            data=_train_data(data),
            template=data.get("chat_template"),
            arguments=data.get("template_arguments") or {},
            repo=repo,
        )
        (half / "README.md").write_text(card, encoding="utf-8")
        measured: list[Measured] = []
        if check:
            say("checking it in a fresh process, with transformers and peft only")
            measured = _measured(record, request, merge=merge)
        half.rename(target)
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:
            raise  # of our own output
        words = f"{error.strerror} ({error.filename or half})"
        raise ExportError(f"--to {target}: cannot be written: {words}.") from None
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return measured


def no_adapter(record: Record) -> str:
    """Say that a trial has none, and which have."""
    files = record.folder.parent.glob(f"*/{ADAPTER}/*.json")
    kept = sorted(path.parent.parent.name for path in files)
    names = ", ".join(str(int(name)) for name in dict.fromkeys(kept) if name.isdigit())
    there = f"These have one: {names}." if names else "No trial has one on this disk."
    return (
        f"trial {record.trial.number} ({record.trial.outcome}) has no adapter on this disk: "
        f"the best keep_adapters are kept. {there}"
    )


def _train_data(data: Mapping[str, Any]) -> str:
    train = str(data.get("train", "unknown"))
    return train.rpartition("/")[2] if train.startswith(("/", ".")) else train


def _measured(record: Record, request: dict[str, Any], *, merge: bool) -> list[Measured]:
    """Measure the adapter on its base as trained and in 16 bits, or the merged model."""
    trained = record.needed_config().model.quantization
    kinds: list[Quantization] = ["none"] if merge or trained == "none" else [trained, "none"]
    losses = _ask({**request, "task": "eval", "quantizations": kinds})
    assert record.trial.eval_loss is not None
    return [
        Measured(kind, losses[kind], record.trial.eval_loss, counts=kind == kinds[0])
        for kind in kinds
    ]


def _has_other_tokens(record: Record) -> bool:
    found = read_report(record.sweep.folder / layout.DATA)
    return found is not None and has_its_tokens(found, record.sweep.task) is False


def _ask(request: dict[str, Any]) -> dict[str, Any]:
    with scratch_dir() as scratch:
        asked, answered = Path(scratch) / "request.json", Path(scratch) / "answer.json"
        asked.write_text(json.dumps(request), encoding="utf-8")
        done = run_module(
            "trials.exported",
            str(asked),
            str(answered),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if done.returncode:
            lines = [line for line in done.stdout.splitlines() if line.strip()] or ["it was killed"]
            verb = "merged" if request["task"] == "merge" else "checked"
            mend = "" if request["task"] == "merge" else " Use --no-check to skip the check."
            last = "\n".join(f"  {line}" for line in lines[-3:])
            raise ExportError(f"The export could not be {verb}; nothing was written.{mend}\n{last}")
        found: dict[str, Any] = json.loads(answered.read_text(encoding="utf-8"))
        return found


def measured_text(measured: Measured, *, is_merged: bool) -> str:
    """One line: both losses, and their difference."""
    base = {"nf4": "on the base in 4 bits", "int8": "on the base in 8 bits"}.get(
        measured.quantization, "merged, in 16 bits" if is_merged else "on the base in 16 bits"
    )
    return (
        f"Eval loss {measured.eval_loss:.4f} {base}; logged {measured.logged:.4f} "
        f"({measured.difference:+.2%})."
    )


def verdict(measured: list[Measured], record: Record, *, is_merged: bool) -> str | None:
    """Say loudly that what was exported is not what was logged; None: it is."""
    wrong = next((m for m in measured if m.counts and not m.is_within), None)
    if wrong is None:
        return None
    words = (
        f"THE EXPORT DIFFERS by {wrong.difference:+.2%} from the logged eval loss; {TOLERANCE:.0%} "
        f"is allowed."
    )
    trained = record.needed_config().model.quantization
    if is_merged and trained != "none":
        bits = "4" if trained == "nf4" else "8"
        words += (
            f" The trial ran on a base in {bits} bits, but the merge is in 16: the quantisation "
            f"makes the difference. Without --merge, the adapter can be loaded on the base in "
            f"{bits} bits."
        )
    return words
