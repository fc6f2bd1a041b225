"""What is measured of a model in a precision, and how far it may be from the plain way."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.zoo.adapted import adapted_kinds, left_out_kinds, misplaced
from tests.zoo.bench import PRECISIONS, PRESETS, Bench, in_words, weight_names
from tests.zoo.plain import Plain
from trials import exported
from trials.backends.packing import packed
from trials.backends.transformers_qlora import TransformersBase
from trials.config import EvalPoint, UserError
from trials.data.batches import collate
from trials.distributed.group import ALONE
from trials.evaluation.evaluate import measure
from trials.memory.micro_batches import MicroBatchMemory
from trials.training.train import run_trial
from trials.trial_folder import EVAL_SAMPLE

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
NEAR_TIE_OF_EXPERTS = 0.5
"""In 16 bits a row's sums differ with the shape of its batch, and a router chooses otherwise."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was measured, and what it may be at most."""

    name: str
    value: float
    at_most: float
    about: Sequence[str] = ()
    """What was counted."""

    @property
    def is_right(self) -> bool:
        return self.value <= self.at_most  # NaN is not

    def __str__(self) -> str:
        found = f"{self.value:.2g}" + "".join(f", {each}" for each in self.about[:3])
        return f"{self.name}: {found}; at most {self.at_most:g}"


Check = Callable[[Bench], Iterator[Finding]]


def modules_of_presets(bench: Bench) -> Iterator[Finding]:
    """What each preset adapts, unless the preparation refuses it: no router, no tower."""
    for preset in PRESETS:
        try:
            bench.prepare(preset, bench.work / "of-preset")
        except UserError as error:
            bench.modules[preset] = f"refused: {error}"
            continue
        wrong: list[str] = []
        with bench.guarded(f"{preset}: passes the check, and fails in a trial"):
            adapted = bench.base.add_adapter(bench.config(0, target_modules=preset))
            bench.modules[preset] = adapted_kinds(adapted)
            if preset == "all-linear":
                bench.modules["left out"] = left_out_kinds(adapted)
            wrong = misplaced(adapted)
            bench.base.remove_adapter()
        yield Finding(f"{preset}: routers and towers adapted", len(wrong), 0, wrong)


LENGTHS = ((31, 19), (31, 27), (17, 23))
"""Of the two rows of each draw."""


@torch.no_grad()
def rows_apart(bench: Bench) -> Iterator[Finding]:
    """Other tokens in the first of two packed rows move no logits of the second."""
    base = bench.base
    if not base._rows_stay_apart:
        bench.notes.append("not packed")
        return
    _keep_outliers_in_8_bits(base.model)
    bench.forget()
    chance = torch.Generator().manual_seed(5)
    moved = 0.0
    for first_length, second_length in LENGTHS:
        first, other, second = (
            torch.randint(3, 80, (n,), generator=chance)
            for n in (first_length, first_length, second_length)
        )
        one, another = (_logits_after(base, row, second) for row in (first, other))
        moved = max(moved, float((one - another).norm() / one.norm()))
    yield Finding("packed rows leak", moved, LEAK.get(bench.precision, USUAL_LEAK))


def _keep_outliers_in_8_bits(model: torch.nn.Module) -> None:
    """Else each row rounds as the outliers of its whole batch would have it, packed or padded."""
    from bitsandbytes.nn import Linear8bitLt

    for module in model.modules():
        if isinstance(module, Linear8bitLt):
            module.state.threshold = 0.0


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
    if abs(bench.logged.eval_loss / warm[0][0] - 1) < RELOADED:
        # Its gradients are compared all the same.
        bench.notes.append("so little was learnt that a lost adapter would pass for a loaded one")


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
    if not bench.base.model.supports_gradient_checkpointing:
        bench.notes.append("transformers itself does not compute its activations again")
        return
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
    yield Finding("trained without a gradient", len(without), 0, without)
    missing = sorted(kept.keys() ^ again.keys())
    yield Finding("gradients that are missing with checkpointing", len(missing), 0, missing)
    worst = max(float((again[n] - kept[n]).norm() / kept[n].norm().clamp_min(1e-9)) for n in kept)
    yield Finding("gradients with checkpointing", worst, SAME_GRADIENT)


def _gradients(
    bench: Bench, adapted: Any, trained: Mapping[str, torch.nn.Parameter]
) -> dict[str, torch.Tensor]:
    rows = bench.rows("train")
    torch.manual_seed(0)  # some models have a dropout of their own
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
    """`sweep export --merge`: as plain peft merges in 16 bits, and no weight is left out."""
    if bench.logged is None:
        return
    merged = bench.work / "merged"
    shutil.rmtree(merged, ignore_errors=True)
    merged.mkdir()
    exported.answer({**_export(bench, merged, is_merged=True), "task": "merge"})
    lost = sorted(weight_names(bench.folder) - weight_names(merged))
    yield Finding("weights lost by export --merge", len(lost), 0, lost)
    found = _exported_loss(bench, merged, is_merged=True, quantization="none")
    yield Finding("export --merge", abs(found / bench.merged_losses().mean - 1), MERGED)


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
        "rows": str(bench.data_dir / EVAL_SAMPLE),
    }


def _exported_loss(bench: Bench, target: Path, *, is_merged: bool, quantization: str) -> float:
    asked = {**_export(bench, target, is_merged=is_merged), "task": "eval"}
    found: float = exported.answer({**asked, "quantizations": [quantization]})[quantization]
    return found


STOP = 2
NEW_TOKENS = 8


def generation(bench: Bench) -> Iterator[Finding]:
    """Prompts that are continued together are so as each is alone, but for ties."""
    prompts = [
        list(row["input_ids"][:n]) for row, n in zip(bench.sample(), (5, 24, 9, 15), strict=False)
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
    has_experts = any(name.endswith("experts") for name, _ in bench.base.model.named_modules())
    usual = NEAR_TIE_OF_EXPERTS if has_experts else USUAL_NEAR_TIE
    yield Finding("generation in a batch", worst, NEAR_TIE.get(bench.precision, usual))


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
