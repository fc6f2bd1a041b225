"""`sweep trial`: one configuration in this process, for a debugger. Read it from top to bottom.

No Ray, no MLflow, no study, no thread of ours: what a trial does is what happens here.
"""

from __future__ import annotations

import json
import os
import pdb
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweep.driver import trial_params
from sweep.driver.preparation import Check, prepare_data
from sweep.folder import layout
from sweep.folder.kinds import see_kinds
from sweep.pruners.own_curve import ByItself
from sweep.space.backend import choose_backend
from sweep.space.hyperparameters import HYPERPARAMETERS, Value, shown
from sweep.space.space import Space
from sweep.space.usual_points import filled_in
from sweep.storage.attributes import COUNTS
from sweep.study.task import EARLIER_TOKENS, SAMPLE_TOKENS, rows_so_far, with_its_optimizer
from sweep.study.trial_config import resolver
from sweep.text.trials import COLOURS
from sweep.workers import devices
from trials.config import BY_EVAL_LOSS, EvalPoint, Objective, Stop, TrialConfig, TrialResult
from trials.data.tokens import sample_tokens
from trials.trial_folder import ADAPTER, EVAL_SAMPLE, read_report, write_config
from trials.whole_file import write_whole


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the command line says beside the space."""

    output: Path
    """Folder of all sweeps."""
    workers: int | None
    """As of the sweep: they decide how many threads a trial has. None: GPUs where there are any."""
    params: str
    """Hyperparameters as JSON or YAML; those left out have their usual values."""
    number: int | None
    """A trial of the sweep, to be repeated with its own hyperparameters."""
    evaluate_base: bool
    to_the_end: bool
    """Whether a trial goes on that the sweep would stop as diverged or overfit."""
    pdb: bool
    """Whether a debugger opens where the trial fails."""


def run(space: Space, options: Options, console: Console) -> int:
    """Run the trial and return the exit code: 0 it has a value, 1 it has none.

    Raises:
        SpaceError, StudyError: In words for the user, before it trains.
        Exception: Whatever the trial raises, with its own traceback.
    """
    sweep_dir = options.output / space.name
    see_kinds(sweep_dir, with_trials=True)
    recorded = (
        None if options.number is None else trial_params.recorded_config(sweep_dir, options.number)
    )
    given = (
        trial_params.named_params(space, options.params)
        if recorded is None
        else trial_params.recorded_params(space, recorded)
    )
    on_gpus = devices.wants_gpus(workers=options.workers)
    os.environ.update(environment(space, options.workers, on_gpus=on_gpus))
    so_far = rows_so_far(space, sweep_dir)
    space = with_its_optimizer(space, so_far)
    found = prepare_data(
        space,
        sweep_dir / layout.ALONE / layout.DATA,
        on_gpus=on_gpus,
        say=console.print,
        so_far=so_far,
    )
    config = alone(space, given, options, found, new_folder(sweep_dir / layout.ALONE))
    console.print(config_table(config))
    for note in notes(space, given, config, recorded):
        console.print(Text(note, style="dim"), soft_wrap=True)
    if not same_rows(sweep_dir / layout.DATA, found):
        console.print("The rows differ from the sweep's.", style="dim")
    verdicts = None if options.to_the_end else Verdicts(space, config.lr_scheduler)
    watch = Watch(config, console, verdicts)
    write_config(config)
    result = train(config, watch, open_debugger=options.pdb)
    return 1 if result is None else say_end(config, result, console)


def train(config: TrialConfig, watch: Watch, *, open_debugger: bool) -> TrialResult | None:
    """Run the trial here; None: it failed, and somebody has looked at it in the debugger."""
    try:
        # Unsloth patches transformers and peft as it is imported: the backend comes first.
        from trials.backends.loading import load

        base = load(config.model)
        from trials.memory.micro_batches import MicroBatchMemory
        from trials.training.train import run_trial

        return run_trial(config, base, MicroBatchMemory(), watch.report)
    except Exception as error:
        if not open_debugger:
            raise
        traceback.print_exc()
        pdb.post_mortem(error.__traceback__)
        return None


def environment(space: Space, workers: int | None, *, on_gpus: bool) -> dict[str, str]:
    """What a worker of the sweep has in its environment: equal losses need equal threads.

    To be set before torch is imported.
    """
    n_processes = space.settings.processes_per_trial
    if not on_gpus:
        n_slots = devices.n_workers(space, workers)
        threads = devices.training_environment(n_slots=n_slots, n_processes=n_processes)
        return {**threads, "CUDA_VISIBLE_DEVICES": ""}
    there = devices.n_visible_gpus()
    n_slots = devices.n_gpu_slots(space, asked=None, there=n_processes if there is None else there)
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    threads = devices.training_environment(n_slots=n_slots, n_processes=n_processes)
    return {**threads, "CUDA_VISIBLE_DEVICES": first}


def new_folder(parent: Path) -> Path:
    """Make the folder of this call: 0, 1, 2, …"""
    parent.mkdir(parents=True, exist_ok=True)
    number = max((int(p.name) for p in parent.iterdir() if p.name.isdigit()), default=-1) + 1
    while True:
        folder = parent / str(number)
        try:
            folder.mkdir()
        except FileExistsError:  # somebody else's call
            number += 1
        else:
            return folder.resolve()


def alone(
    space: Space, given: Mapping[str, Value], options: Options, found: Check, folder: Path
) -> TrialConfig:
    """The configuration that a worker of the sweep would get, but for its folders and its GPUs."""
    resolve = resolver(
        space,
        backend=choose_backend(space, on_gpus=found.on_gpus),
        on_gpus=found.on_gpus,
        output_dir=folder,
        data_dir=found.data_dir,
    )
    number = int(folder.name) if options.number is None else options.number
    config = resolve(number, filled_in(space.domains, given), options.evaluate_base)
    return replace(config, output_dir=str(folder), gpus_per_trial=1)


def notes(
    space: Space,
    given: Mapping[str, Value],
    config: TrialConfig,
    recorded: trial_params.Recorded | None,
) -> Iterator[str]:
    """What somebody who compares this trial with the sweep's should know."""
    if words := trial_params.outside(space, given, config):
        yield words
    if recorded is not None and (words := trial_params.unlike(recorded, config)):
        yield words
    n_processes = space.settings.processes_per_trial
    if n_processes > 1:
        of_sweep = f"the sweep's trial in {n_processes}"
        yield f"Trains in one process, {of_sweep}: losses differ slightly."


def same_rows(data_dir: Path, found: Check) -> bool:
    """Whether the sweep, if there is one, has trained and evaluated on the same tokens."""
    before, now = read_report(data_dir), found.report
    if before is None:
        return True
    noted = before.get(EARLIER_TOKENS) or before.get(SAMPLE_TOKENS)
    tokens = noted or sample_tokens(data_dir / EVAL_SAMPLE)
    generated = [(report.get("generation") or {}).get("rows") for report in (before, now)]
    return (
        tokens == now[SAMPLE_TOKENS]
        and before["train_fingerprint"] == now["train_fingerprint"]
        and generated[0] == generated[1]
    )


class Verdicts:
    """The verdicts of a sweep that need no other trial."""

    def __init__(self, space: Space, lr_scheduler: str) -> None:
        self._lr_scheduler = lr_scheduler
        self._by_itself = ByItself.of(space)

    def on(self, points: Sequence[EvalPoint]) -> Stop | None:
        """The verdict on a trial's evaluations, point 0 included, latest last: None to go on."""
        base_eval_loss = next((point.eval_loss for point in points if point.index == 0), None)
        curve = [point for point in points if point.index > 0]
        if not curve:
            return None
        return self._by_itself.verdict(curve, base_eval_loss, self._lr_scheduler)


class Watch:
    """Prints each evaluation and keeps the curve in curve.json.

    Args:
        verdicts: None: the trial goes on to its end.
    """

    def __init__(self, config: TrialConfig, console: Console, verdicts: Verdicts | None) -> None:
        self._config, self._console, self._verdicts = config, console, verdicts
        self._points: list[EvalPoint] = []

    def report(self, point: EvalPoint) -> Stop | None:
        self._console.print(
            Text(line(point, self._config.n_evaluations, self._config.objective)), soft_wrap=True
        )
        self._points.append(point)
        path = Path(self._config.output_dir) / "curve.json"
        write_whole(path, json.dumps([asdict(point) for point in self._points], indent=1))
        return self._verdicts.on(self._points) if self._verdicts else None


def line(point: EvalPoint, n_evaluations: int, objective: Objective = BY_EVAL_LOSS) -> str:
    """An evaluation in a line."""
    cells = [
        f"{point.index / n_evaluations:4.0%}",
        f"step {point.step}",
        f"epoch {point.epoch:.2f}",
        None if point.train_loss is None else f"train {point.train_loss:.4f}",
        f"eval {point.eval_loss:.4f}",
        None if point.score is None else f"{objective.name} {point.score:.4f}",
        None if point.learning_rate is None else f"lr {point.learning_rate:.2e}",
        None if point.grad_norm is None else f"grad norm {point.grad_norm:.3g}",
        None if point.tokens_per_second is None else f"{point.tokens_per_second:,.0f} tokens/s",
        None if point.gpu_memory_gib is None else f"{point.gpu_memory_gib:.1f} GiB",
        None if point.gpu_busy is None else f"GPU busy {point.gpu_busy:.0%}",
    ]
    return "  ".join(cell for cell in cells if cell is not None)


def config_table(config: TrialConfig) -> Table:
    """The configuration as a table."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")  # the folder's path is to be copied
    model = config.model
    table.add_row(
        "base model",
        f"{model.name} in {model.quantization}, backend {model.backend}, "
        f"compute_dtype {model.compute_dtype}",
    )
    for name in HYPERPARAMETERS:
        table.add_row(name, _shown(getattr(config, name)))
    table.add_row(
        "micro-batch",
        f"as many tokens as {config.micro_batch_size} of the longest rows, to start with",
    )
    table.add_row("optimizer", config.optimizer)
    table.add_row("seed", str(config.seed))
    table.add_row("threads", os.environ["OMP_NUM_THREADS"])
    table.add_row("folder", config.output_dir)
    return table


def _shown(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else shown(value).strip("'")


def say_end(config: TrialConfig, result: TrialResult, console: Console) -> int:
    """Say how the trial ended and where its adapter is; return the exit code."""
    words = Text(result.outcome, style=COLOURS[result.outcome])
    console.print(words.append(f"  {result.reason}", style="not bold"), soft_wrap=True)
    adapter = Path(config.output_dir) / ADAPTER
    if adapter.exists():
        console.print(Text(f"Adapter:  {adapter}"), soft_wrap=True)
    return 0 if result.outcome in COUNTS and result.best is not None else 1
