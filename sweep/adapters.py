"""Which adapters stay on disk: the best few, and the winner's own folder with how to load it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from sweep.loop import Place
from sweep.study import Ended, Sweep
from trials.config import EvalPoint, TrialConfig, TrialResult

HOW_TO_LOAD = """\
# The best adapter of the sweep `{name}`

Trial {number}: eval loss {eval_loss:.4f} nats per completion token ({outcome}).

    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained("{base}", dtype="bfloat16")
    model = PeftModel.from_pretrained(base, "{adapter}")
    tokenizer = AutoTokenizer.from_pretrained("{base}")

It was trained on a base in `{quantization}`; loaded in 16 bits, as above, the same adapter answers
with slightly different numbers. `config.json` holds the whole configuration of the trial.
"""


class Adapters:
    """A `Tracker` that keeps the adapters of the `keep` best trials and deletes the others.

    Args:
        drop: Called with a trial's number when its adapter is no longer among the best, and with
            what deletes its folder: to be called when nobody reads it any more.
    """

    def __init__(
        self,
        sweep: Sweep,
        output_dir: Path,
        *,
        keep: int,
        drop: Callable[[int, Callable[[], None]], None],
    ) -> None:
        self._sweep = sweep
        self._output_dir = output_dir
        self._keep = keep
        self._drop = drop
        self._configs: dict[int, TrialConfig] = {}
        self._best: int | None = None

    @property
    def best_dir(self) -> Path:
        """The winner's folder: adapter, config.json and how to load it."""
        return self._output_dir / "best"

    def trial_started(self, config: TrialConfig, place: Place) -> None:
        """Nothing is on disk yet."""
        self._configs[config.number] = config

    def trial_reported(self, number: int, point: EvalPoint) -> None:
        """Nothing is on disk yet."""

    def trial_ended(self, number: int, result: TrialResult) -> None:
        """Let the trial's adapter take its place among the best."""
        ranked = self._sweep.ranked()
        kept = [trial.number for trial in ranked[: self._keep]]
        for other in [trial.number for trial in ranked[self._keep :]] + [number]:
            folder = self._adapter_dir(other)
            if other not in kept and folder.exists():
                self._drop(other, lambda folder=folder: shutil.rmtree(folder, ignore_errors=True))  # type: ignore[misc]
        if kept and kept[0] == number:
            self._write_best(ranked[0])

    def _adapter_dir(self, number: int) -> Path:
        return self._output_dir / "trials" / f"{number:03d}" / "adapter"

    def _write_best(self, winner: Ended) -> None:
        """Write best/ whole or not at all; files are linked where the disk allows."""
        config = self._configs[winner.number]
        unfinished = self.best_dir.with_name(f"best.{os.getpid()}.tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(
            self._adapter_dir(winner.number), unfinished / "adapter", copy_function=_link_or_copy
        )
        shutil.copy(Path(config.output_dir) / "config.json", unfinished / "config.json")
        words = HOW_TO_LOAD.format(
            name=self._output_dir.name,
            number=winner.number,
            eval_loss=winner.eval_loss_best,
            outcome=winner.outcome,
            base=_loadable_base(unfinished / "adapter"),
            adapter=(self.best_dir / "adapter").resolve(),
            quantization=config.model.quantization,
        )
        (unfinished / "README.md").write_text(words)
        shutil.rmtree(self.best_dir, ignore_errors=True)
        unfinished.rename(self.best_dir)


def _loadable_base(adapter_dir: Path) -> str:
    written = json.loads((adapter_dir / "adapter_config.json").read_text())
    return str(written["base_model_name_or_path"])


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
