"""One cell of the zoo: an architecture in a precision, used as a sweep uses it, beside the plain
way. Everything that is measured has a limit; what is beyond it, or fails, is wrong."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tests.tiny import request
from tests.zoo.adapted import adapted_kinds, left_out_kinds, misplaced
from tests.zoo.build import write_rows
from tests.zoo.plain import Losses, Plain, Row
from trials import exported
from trials.backends.loading import load
from trials.backends.packing import packed
from trials.backends.transformers_qlora import TransformersBase
from trials.config import ComputeDtype, EvalPoint, ModelConfig, Quantization, TrialConfig, UserError
from trials.data.batches import collate
from trials.data.tokens import TokenRows
from trials.distributed.group import ALONE
from trials.evaluation.evaluate import measure
from trials.memory.micro_batches import MicroBatchMemory
from trials.preparation.prepare import Request, prepare
from trials.training.train import run_trial

PRECISIONS: Mapping[str, tuple[Quantization, ComputeDtype]] = {
    "nf4": ("nf4", "auto"),
    "int8": ("int8", "auto"),
    "none": ("none", "auto"),
    "float32": ("none", "float32"),
}
PRESETS = ("all-linear", "attention", "mlp", "qv")
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
MAX_LENGTH = 64

LEAK = {"int8": 0.02}
USUAL_LEAK = 1e-6
ROW_LOSS = {"float32": 1e-5}
USUAL_ROW_LOSS = 0.01
RELOADED = 0.005
MERGED = 0.01
"""As `sweep export` allows: weights that were added up are rounded to 16 bits again."""
SAME_GRADIENT = 1e-6
NEAR_TIE = {"float32": 1e-3}
USUAL_NEAR_TIE = 0.1
"""How far below the highest logit, in standard deviations of all, a token written in a batch may
be: in 16 bits two tokens may change places."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was measured, and what it may be at most."""

    name: str
    value: float
    at_most: float

    @property
    def is_right(self) -> bool:
        return self.value <= self.at_most  # NaN is not


@dataclass
class Bench:
    """A model in a precision, prepared as for a sweep."""

    folder: Path
    precision: str
    work: Path
    own: Mapping[str, Any] = field(default_factory=dict)
    """Of the trials' configuration, beside the usual."""
    notes: list[str] = field(default_factory=list)
    modules: dict[str, Any] = field(default_factory=dict)
    logged: EvalPoint | None = None
    """The best evaluation of the first trial, whose adapter is on disk."""
    _base: TransformersBase | None = None
    _plain: Plain | None = None

    def model(self) -> ModelConfig:
        quantization, dtype = PRECISIONS[self.precision]
        return ModelConfig(
            name=str(self.folder),
            revision=None,
            quantization=quantization,
            compute_dtype=dtype,
            backend="transformers",
            max_length=MAX_LENGTH,
            trust_remote_code=False,
        )

    @property
    def data_dir(self) -> Path:
        return self.work / "prepared"

    def prepare(self, target_modules: str = "all-linear", to: Path | None = None) -> Any:
        """Do what `sweep check` does; raises what it would say."""
        self.work.mkdir(parents=True, exist_ok=True)
        known = {own.name for own in dataclasses.fields(Request)}
        return prepare(
            request(
                self.folder,
                to or self.data_dir,
                model=self.model(),
                train=write_rows(self.work / "train.jsonl", 16, seed=2),
                eval=write_rows(self.work / "eval.jsonl", 8, seed=3),
                target_modules=target_modules,
                max_lengths=[MAX_LENGTH],
                smallest_epochs=100,  # else the sample would be made smaller than 8 rows
                **{name: value for name, value in self.own.items() if name in known},
            )
        )

    def config(self, number: int, **changes: Any) -> TrialConfig:
        settings: dict[str, Any] = {
            "number": number,
            "model": self.model(),
            "data_dir": str(self.data_dir),
            "output_dir": str(self.work / "trials" / f"{number:03d}"),
            "rank": 4 if number % 2 else 8,
            "alpha": 16.0,
            "learning_rate": 1e-2,
            "epochs": 1,
            "effective_batch_size": 4,
            "gpus_per_trial": 1,
            "micro_batch_size": 4,
            "eval_batch_size": 8,
            "max_length": MAX_LENGTH,
            "dropout": 0.0,
            "warmup_ratio": 0.0,
            "weight_decay": 0.0,
            "lr_scheduler": "cosine",
            "optimizer": "adamw",
            "max_grad_norm": 1.0,
            "target_modules": "all-linear",
            "use_rslora": False,
            "use_dora": False,
            "neftune_alpha": 0.0,
            "n_evaluations": 2,
            "evaluate_base": True,
            "checkpoint_minutes": 60.0,
            "stall_minutes": 60.0,
            "seed": number,
        }
        return TrialConfig(**{**settings, **self.own, **changes})

    def fresh_base(self) -> TransformersBase:
        """Load it once more, and have it pack as a large model would, where it may."""
        base = load(self.model())
        assert isinstance(base, TransformersBase)
        if base._cost is not None:
            base._cost = replace(base._cost, linear_weights=10**12)
        return base

    @property
    def base(self) -> TransformersBase:
        if self._base is None:
            self._base = self.fresh_base()
        return self._base

    def forget(self) -> None:
        """Load a new base next: something went wrong on this one."""
        self._base = None

    @property
    def dtype(self) -> torch.dtype:
        return exported.dtype_of(PRECISIONS[self.precision][1])

    @property
    def plain(self) -> Plain:
        if self._plain is None:
            self._plain = Plain(self.folder, PRECISIONS[self.precision][0], self.dtype)
        return self._plain

    def rows(self, split: str) -> TokenRows:
        return TokenRows(self.data_dir / split, MAX_LENGTH)

    def sample(self) -> list[Row]:
        rows = self.rows("sample")
        return [
            {name: values.tolist() for name, values in rows[index].items()}
            for index in range(len(rows.lengths))
        ]

    @property
    def adapter(self) -> Path:
        """Of the first trial."""
        return Path(self.config(0).output_dir) / "adapter"

    def adapted_losses(self, quantization: str) -> Losses:
        """Of plain peft, with the first trial's adapter."""
        return Plain(self.folder, quantization, self.dtype, self.adapter).losses(self.sample())


Check = Callable[[Bench], Iterator[Finding]]


def modules_of_presets(bench: Bench) -> Iterator[Finding]:
    """What each preset adapts, unless the preparation refuses it: no router, no tower."""
    for preset in PRESETS:
        try:
            bench.prepare(preset, bench.work / "of-preset")
        except UserError as error:
            bench.modules[preset] = f"refused: {error}"
            continue
        adapted = bench.base.add_adapter(bench.config(0, target_modules=preset))
        bench.modules[preset] = adapted_kinds(adapted)
        if preset == "all-linear":
            bench.modules["left out"] = left_out_kinds(adapted)
        wrong = misplaced(adapted)
        bench.base.remove_adapter()
        yield Finding(f"{preset}: routers and towers adapted ({', '.join(wrong)})", len(wrong), 0)


LENGTHS = ((31, 19), (31, 27), (17, 23))
"""Of the two rows of each draw."""


@torch.no_grad()
def rows_apart(bench: Bench) -> Iterator[Finding]:
    """Other tokens in the first of two packed rows move no logits of the second."""
    base = bench.base
    if not base._rows_stay_apart:
        bench.notes.append("not packed")
        return
    chance = torch.Generator().manual_seed(5)
    for first_length, second_length in LENGTHS:
        first, other, second = (
            torch.randint(3, 80, (n,), generator=chance)
            for n in (first_length, first_length, second_length)
        )
        one, another = (_logits_after(base, row, second) for row in (first, other))
        moved = float((one - another).norm() / one.norm())
        yield Finding("packed rows leak", moved, LEAK.get(bench.precision, USUAL_LEAK))


def _logits_after(base: TransformersBase, first: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    layout = packed(
        collate([{"input_ids": ids, "labels": ids} for ids in (first, row)]), name_bounds=False
    )
    logits, _ = base._logits(base.model, layout)
    return logits[layout.rows == 1].float()


def base_loss(bench: Bench) -> Iterator[Finding]:
    """With an adapter that is new, each row of a batch has the loss that it has alone."""
    adapted = bench.base.add_adapter(bench.config(0))
    found = measure(bench.base, adapted, bench.rows("sample"), 8, ALONE).row_nlls
    bench.base.remove_adapter()
    alone = bench.plain.losses(bench.sample()).rows
    worst = max(abs(a / b - 1) for a, b in zip(found, alone, strict=True))
    yield Finding("loss of a row", worst, ROW_LOSS.get(bench.precision, USUAL_ROW_LOSS))


def warm_trials(bench: Bench) -> Iterator[Finding]:
    """Three trials on one base are, to the last digit, those of three new ones."""
    bench.logged = None
    warm = [_losses_of_trial(bench, bench.base, number) for number in range(3)]
    cold = [_losses_of_trial(bench, bench.fresh_base(), number) for number in (1, 2)]
    pairs = zip(warm[1] + warm[2], cold[0] + cold[1], strict=True)
    yield Finding("warm trials differ from cold", max(abs(a - b) for a, b in pairs), 0)
    assert bench.logged is not None
    # Else an adapter that was lost would pass for one that was loaded.
    learnt = abs(bench.logged.eval_loss / warm[0][0] - 1)
    yield Finding("an adapter that changes nothing", RELOADED / max(learnt, 1e-9), 1)


def _losses_of_trial(bench: Bench, base: TransformersBase, number: int) -> list[float]:
    config = bench.config(number)
    shutil.rmtree(config.output_dir, ignore_errors=True)
    Path(config.output_dir).mkdir(parents=True)
    points: list[EvalPoint] = []
    result = run_trial(config, base, MicroBatchMemory(), points.append)
    if result.outcome != "completed" or result.best is None:
        raise RuntimeError(f"trial {number} ended as {result.outcome}: {result.reason}")
    if number == 0:
        bench.logged = result.best
    return [loss for p in points for loss in (p.eval_loss, p.train_loss) if loss is not None]


def checkpointing(bench: Bench) -> Iterator[Finding]:
    """Activations that are computed again give the same gradients; all that is trained has one."""
    adapted = bench.base.add_adapter(bench.config(0))
    adapted.train()
    chance = torch.Generator().manual_seed(0)
    trained = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    for name, parameter in trained.items():
        if "lora_B" in name:  # zero as yet, so that A would have no gradient
            with torch.no_grad():
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=chance))
    kept = _gradients(bench, adapted, trained)
    bench.base.recompute_activations()
    again = _gradients(bench, adapted, trained)
    bench.base.remove_adapter()
    without = sorted({_layer(name) for name in trained if name not in kept})
    yield Finding(f"trained without a gradient ({', '.join(without)})", len(without), 0)
    missing = kept.keys() ^ again.keys()
    yield Finding("gradients that are missing with checkpointing", len(missing), 0)
    worst = max(float((again[n] - kept[n]).norm() / kept[n].norm().clamp_min(1e-9)) for n in again)
    yield Finding("gradients with checkpointing", worst, SAME_GRADIENT)


def _gradients(
    bench: Bench, adapted: Any, trained: Mapping[str, torch.nn.Parameter]
) -> dict[str, torch.Tensor]:
    rows = bench.rows("train")
    loss = bench.base.nll_sum(adapted, collate([rows[index] for index in range(6)]))
    torch.autograd.backward(loss)
    found = {n: p.grad.clone() for n, p in trained.items() if p.grad is not None}
    adapted.zero_grad()
    return found


def _layer(parameter: str) -> str:
    return parameter.partition(".lora_")[0].rpartition("layers.")[2]


def reloaded(bench: Bench) -> Iterator[Finding]:
    """Plain peft on a plain base gives the loss that the trial has logged."""
    if bench.logged is None:
        return
    found = bench.adapted_losses(PRECISIONS[bench.precision][0]).mean
    yield Finding("adapter in plain peft", abs(found / bench.logged.eval_loss - 1), RELOADED)


def exported_apart(bench: Bench) -> Iterator[Finding]:
    """`sweep export`: the adapter on its base."""
    if bench.logged is None:
        return
    quantization = PRECISIONS[bench.precision][0]
    found = _exported_loss(bench, bench.adapter, is_merged=False, quantization=quantization)
    yield Finding("export", abs(found / bench.logged.eval_loss - 1), RELOADED)


def exported_merged(bench: Bench) -> Iterator[Finding]:
    """`sweep export --merge`: as plain peft on the base in 16 bits, and no weight is left out."""
    if bench.logged is None:
        return
    merged = bench.work / "merged"
    shutil.rmtree(merged, ignore_errors=True)
    merged.mkdir()
    exported.answer({**_export(bench, merged, is_merged=True), "task": "merge"})
    lost = _weights(bench.folder) - _weights(merged)
    yield Finding(f"weights lost by export --merge ({', '.join(sorted(lost)[:3])})", len(lost), 0)
    found = _exported_loss(bench, merged, is_merged=True, quantization="none")
    yield Finding("export --merge", abs(found / bench.adapted_losses("none").mean - 1), MERGED)


def _export(bench: Bench, target: Path, *, is_merged: bool) -> dict[str, Any]:
    """What `sweep export` asks of the process that loads what it has written."""
    return {
        "base": str(bench.folder),
        "revision": None,
        "trust_remote_code": False,
        "compute_dtype": PRECISIONS[bench.precision][1],
        "adapter": str(bench.adapter),
        "exported": str(target),
        "is_merged": is_merged,
        "rows": str(bench.data_dir / "eval_sample.jsonl"),
    }


def _exported_loss(bench: Bench, target: Path, *, is_merged: bool, quantization: str) -> float:
    asked = {**_export(bench, target, is_merged=is_merged), "task": "eval"}
    found: float = exported.answer({**asked, "quantizations": [quantization]})[quantization]
    return found


def _weights(folder: Path) -> set[str]:
    from safetensors import safe_open

    names: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            names |= set(weights.keys())
    return names


STOP = 2
NEW_TOKENS = 8


def generation(bench: Bench) -> Iterator[Finding]:
    """Prompts that are continued together are so as each is alone, but for ties."""
    prompts = [
        list(row["input_ids"][:n]) for row, n in zip(bench.sample(), (5, 8, 3, 7), strict=False)
    ]
    try:
        alone = [
            bench.plain.greedy(prompt, stop_id=STOP, max_new_tokens=NEW_TOKENS)
            for prompt in prompts
        ]
    except Exception as error:
        bench.notes.append(f"transformers itself does not generate: {in_words(error)}")
        return
    bench.base.add_adapter(bench.config(0)).eval()
    together = bench.base.generate(prompts, stop_ids=[STOP], max_new_tokens=NEW_TOKENS)
    bench.base.remove_adapter()
    worst = max(_gap(bench.plain, *three) for three in zip(prompts, alone, together, strict=True))
    yield Finding("generation in a batch", worst, NEAR_TIE.get(bench.precision, USUAL_NEAR_TIE))


def _gap(plain: Plain, prompt: list[int], alone: list[int], together: list[int]) -> float:
    """Where the two first differ: how much less likely the other token is."""
    alone, together = [*alone, STOP], [*together, STOP]
    at = next((i for i, (a, b) in enumerate(zip(alone, together, strict=False)) if a != b), None)
    if at is None or at >= NEW_TOKENS:
        return 0.0
    logits = plain.logits([*prompt, *alone[:at]])[-1]
    return float((logits[alone[at]] - logits[together[at]]).abs() / logits.std())


OF_THE_BASE: tuple[Check, ...] = (modules_of_presets, rows_apart, base_loss, generation)
OF_AN_ADAPTER: tuple[Check, ...] = (
    warm_trials,
    checkpointing,
    reloaded,
    exported_apart,
    exported_merged,
)


def measured(name: str, precision: str, folder: Path, work: Path) -> dict[str, Any]:
    """Measure a cell.

    Args:
        folder: Of the model.
        work: What the cell writes; left there.
    """
    began = time.monotonic()
    bench = Bench(folder, precision, work)
    faults: list[str] = []
    numbers: dict[str, float] = {}
    refused = _refused(bench)
    if refused is None:
        _run(OF_THE_BASE + OF_AN_ADAPTER, bench, faults, numbers)
        if any(own.name == "experts" for own in dataclasses.fields(TrialConfig)):
            _run_with_experts(bench, faults, numbers)
    return {
        "architecture": name,
        "precision": precision,
        "verdict": "refused" if refused else "WRONG" if faults else "right",
        "words": [refused] if refused else faults,
        "notes": bench.notes,
        "modules": bench.modules,
        "measured": numbers,
        "seconds": round(time.monotonic() - began, 1),
        **made(),
    }


def made() -> dict[str, Any]:
    """When, and with what."""
    return {
        "date": date.today().isoformat(),
        "versions": {library: version(library) for library in LIBRARIES},
    }


def _refused(bench: Bench) -> str | None:
    """What `sweep check` refuses the model with."""
    try:
        bench.prepare()
    except UserError as error:
        return str(error)
    return None


def _run_with_experts(bench: Bench, faults: list[str], numbers: dict[str, float]) -> None:
    """The same once more with the routed experts trained, where there are any."""
    if not any(".experts." in name for name in _weights(bench.folder)):
        return
    asked = Bench(bench.folder, bench.precision, bench.work / "experts", {"experts": True})
    refused = _refused(asked)
    if refused is not None:
        bench.notes.append(f"experts refused: {refused}")
        return
    found: list[str] = []
    of_experts: dict[str, float] = {}
    _run((modules_of_presets, base_loss, *OF_AN_ADAPTER), asked, found, of_experts)
    faults += [f"experts: {words}" for words in found]
    numbers |= {f"experts: {name}": value for name, value in of_experts.items()}
    bench.notes += [f"experts: {words}" for words in asked.notes]
    bench.modules |= {f"experts: {preset}": kinds for preset, kinds in asked.modules.items()}


def _run(
    checks: tuple[Check, ...], bench: Bench, faults: list[str], numbers: dict[str, float]
) -> None:
    for check in checks:
        try:
            for finding in check(bench):
                numbers[finding.name] = max(finding.value, numbers.get(finding.name, -math.inf))
                if not finding.is_right:
                    over = f"{finding.value:.2g}, at most {finding.at_most:g}"
                    faults.append(f"{finding.name}: {over}")
        # Exception: whatever a library raises for this architecture is what is to be found out.
        except Exception as error:
            traceback.print_exc()
            faults.append(f"{check.__name__}: {in_words(error)}")
            bench.forget()


def in_words(error: BaseException) -> str:
    """Return an error in one line, with where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "nowhere"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]} ({where})"
