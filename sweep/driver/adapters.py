"""Which adapters stay on disk: the best few, and the winner's own folder with how to load it."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sweep.events import Tracker
from sweep.export.adapter_files import adapter_config, base_class
from sweep.export.model_card import literal, rendered_with
from sweep.export.serving import serving_adapter
from sweep.folder import layout
from sweep.results.final import read_final
from sweep.study.ended import StoredTrial
from sweep.study.sweep import Sweep
from trials.config import GOES_ON, TrialResult, UserError
from trials.trial_folder import ADAPTER, CHECKPOINT, CONFIG, TOKENIZER_CONFIG, read_json
from trials.whole_file import link_or_copy

HOW_TO_LOAD = """\
# The best adapter of the sweep `{name}`

{figures}

    from peft import PeftModel
    from transformers import {kind}, AutoTokenizer

    base = {kind}.from_pretrained({base}, dtype="bfloat16")
    model = PeftModel.from_pretrained(base, {adapter})
    tokenizer = AutoTokenizer.from_pretrained({tokenizer})
{rendered}
{trained_on}
## How to serve it

{served}

`config.json` holds the trial's whole configuration.
"""
ON_ANOTHER_BASE = """\
It was trained on a base in `{quantization}`; on a base in 16 bits, as above, its outputs differ
measurably: `sweep export` tells how much.
"""
THE_BASE_IN_4_BITS = """\
The base as it was trained on:

    from transformers import BitsAndBytesConfig

    nf4 = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype="bfloat16",
    )
    base = {kind}.from_pretrained({base}, dtype="bfloat16", quantization_config=nf4)

"""


class Adapters(Tracker):
    """A `Tracker` that keeps the adapters of the `keep` best trials and deletes the others.

    Args:
        drop: Deletes the adapter of a trial that is no longer among the best: its number, and the
            adapter's folder.
        arguments: What the chat template was given beside the turns.
    """

    def __init__(
        self,
        sweep: Sweep,
        output_dir: Path,
        *,
        keep: int,
        drop: Callable[[int, Path], None],
        arguments: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._sweep = sweep
        self._output_dir = output_dir
        self._keep = keep
        self._drop = drop
        self._arguments = arguments
        self._gone: set[int] = set()
        """Ended trials without an adapter: with thousands, nobody wants to look at each again."""

    @property
    def best_dir(self) -> Path:
        """The winner's folder: adapter, config.json and how to load it."""
        return self._output_dir / layout.BEST

    def put_right(self) -> None:
        """Make the disk agree with the study.

        An earlier process may have been killed between the two, or the disk have been full. What
        cannot be mended now is left for the next time.
        """
        with suppress(OSError):
            self._drop_all_but_the_best()
        with suppress(OSError):
            winner = self._winner()
            if winner is not None and not self._is_in_best(winner):
                self._write_best(winner)
        self._remove_leftovers()

    def _winner(self) -> StoredTrial | None:
        """By the final evaluation, as far as there is one."""
        ranked = self._sweep.ranked()
        with suppress(UserError):
            ranked = read_final(self._output_dir).decided(ranked, self._sweep.objective)
        return ranked[0] if ranked else None

    def trial_ended(self, number: int, result: TrialResult) -> None:
        """Let the trial's adapter take its place among the best."""
        if result.outcome not in GOES_ON:  # a failed one has left what it would go on from
            (layout.trial_dir(self._output_dir, number) / CHECKPOINT).unlink(missing_ok=True)
        self.put_right()

    def _drop_all_but_the_best(self) -> None:
        kept = {trial.number for trial in self._sweep.ranked(self._keep)}
        for number in sorted(self._sweep.numbers_ended() - kept - self._gone):
            if (folder := layout.trial_dir(self._output_dir, number) / ADAPTER).exists():
                self._drop(number, folder)
            self._gone.add(number)

    def _figures(self, winner: StoredTrial) -> str:
        """How good it is: by the final evaluation, as far as there is one."""
        objective, where, value, loss = self._sweep.objective, "", winner.value, winner.eval_loss
        with suppress(UserError):
            if (found := read_final(self._output_dir).headline(winner.number)) is not None:
                where = f" {found.where}"
                value, loss = found.trial.value, found.trial.losses.loss
        score = "" if objective.is_eval_loss else f"{objective.name} {value:.4f}, "
        words = f"{score}eval loss {loss:.4f} nats per completion token{where}"
        return f"Trial {winner.number}: {words} ({winner.outcome})."

    def _in_best(self) -> str:
        """Where the winner's adapter lies, as its README has it."""
        return literal(self.best_dir.resolve() / ADAPTER)

    def _is_in_best(self, winner: StoredTrial) -> bool:
        """Whether best/ holds the winner, and is whole."""
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            # Of a folder that was moved, its README tells where the adapter was.
            words = (self.best_dir / "README.md").read_text()
            number = int(json.loads((self.best_dir / CONFIG).read_text())["number"])
            said = self._in_best() in words and self._figures(winner) in words
            return number == winner.number and said
        return False

    def _write_best(self, winner: StoredTrial) -> None:
        """Write best/ whole or not at all; files are linked where the disk allows."""
        self._remove_leftovers()
        unfinished = self.best_dir.with_name(f"{layout.BEST}.{os.getpid()}.tmp")
        of_winner, adapter = layout.trial_dir(self._output_dir, winner.number), unfinished / ADAPTER
        shutil.copytree(of_winner / ADAPTER, adapter, copy_function=link_or_copy)
        shutil.copy(of_winner / CONFIG, unfinished)
        mend = "Restore it, and run the command again."
        config = read_json(of_winner / CONFIG, dict, holds="its configuration", mend=mend) or {}
        base, kind = literal(_loadable_base(adapter)), base_class(adapter)
        in_best = self._in_best()
        rendered = rendered_with(self._arguments)
        words = HOW_TO_LOAD.format(
            name=self._output_dir.name,
            figures=self._figures(winner),
            base=base,
            kind=kind,
            adapter=in_best,
            tokenizer=in_best if (adapter / TOKENIZER_CONFIG).exists() else base,
            rendered=f"    {rendered}\n" if rendered else "",
            trained_on=_trained_on(config["model"]["quantization"], base, kind),
            served=serving_adapter(
                adapter,
                str(self.best_dir.resolve() / ADAPTER),
                _loadable_base(adapter),
                name=self._output_dir.name,
                revision=config["model"].get("revision"),
                code=bool(config["model"].get("trust_remote_code")),
            ),
        )
        (unfinished / "README.md").write_text(words)
        # Aside, not deleted first: a folder cannot replace another in one call, and a process
        # that is killed here leaves best/ missing for as long as one rename takes, not half there.
        replaced = self.best_dir.with_name(f"{layout.BEST}.replaced.{os.getpid()}.tmp")
        if self.best_dir.exists():
            self.best_dir.rename(replaced)
        unfinished.rename(self.best_dir)
        shutil.rmtree(replaced, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        """Remove what a killed process left: the sweep's lock says that no other one writes."""
        for leftover in self._output_dir.glob(f"{layout.BEST}.*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)


def _trained_on(quantization: str, base: str, kind: str) -> str:
    if quantization == "none":
        return ""
    another = ON_ANOTHER_BASE.format(quantization=quantization)
    return another + (
        THE_BASE_IN_4_BITS.format(base=base, kind=kind) if quantization == "nf4" else ""
    )


def _loadable_base(adapter_dir: Path) -> str:
    return str(adapter_config(adapter_dir)["base_model_name_or_path"])
