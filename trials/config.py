"""All that the two sides share: what a trial is told, what it reports, what it ends with."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from trials.foreign_text import harmless

Backend = Literal["transformers", "unsloth"]
Quantization = Literal["nf4", "int8", "none"]
ComputeDtype = Literal["auto", "bfloat16", "float16", "float32"]
Outcome = Literal[
    "completed",
    "overfit",
    "diverged",
    "outclassed",
    "stopped",
    "out_of_memory",
    "failed",
    "paused",
    "interrupted",
]
GOES_ON: frozenset[Outcome] = frozenset({"paused", "interrupted"})
"""Outcomes of a part of a run: the trial goes on later, from its checkpoint."""

Direction = Literal["minimize", "maximize"]
EVAL_LOSS = "eval_loss"
TOKEN_ACCURACY = "token_accuracy"
GENERATED_METRICS = ("exact_match", "rouge_l")
"""Built-in metrics of completions that the model writes, of prompts that were held out."""

PRESETS = ("all-linear", "attention", "mlp", "qv")
"""Kinds of modules by name, the widest first (see `trials.models.target_modules`)."""
PATTERN = "re:"
"""Before a pattern that full names of modules must match as a whole."""

Fault = Literal["machine_lost", "not_begun", "disk_full", "rows_changed"]
"""What ends a trial that is not its own doing: its process, GPU or machine is gone; its worker did
not come up, though others did; there is no room on the disk; the prepared rows were changed."""


class UserError(ValueError):
    """What a user got wrong, in words for whoever can mend it: a command prints no traceback."""


class ConfigError(UserError):
    """A setting that cannot be."""


class DataError(UserError):
    """Data that cannot be trained on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Everything that decides the frozen weights and their arithmetic. Fixed within a study."""

    name: str
    """A hub id, a local folder, or the built-in `smollm2-135m`."""
    revision: str | None
    """A branch, tag or commit of the hub; None for the hub's own default branch."""
    quantization: Quantization
    """`nf4`: 4 bits with double quantisation (QLoRA); `int8`: 8 bits; `none`: 16 bits."""
    compute_dtype: ComputeDtype
    """Of the matrix products; auto: bfloat16, or float16 where a GPU only emulates it."""
    backend: Backend
    max_length: int
    """Tokens of the longest row that a trial of the study may give it."""
    trust_remote_code: bool
    """Whether the model's own Python code may run. Off unless asked for by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterChoices:
    """What the trials of a study may choose of their adapters."""

    target_modules: list[str]
    experts: list[bool]
    use_dora: bool
    """Whether a trial may have it."""
    largest_rank: int
    largest_dropout: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """What the trials of a study are judged by."""

    name: str = EVAL_LOSS
    """`eval_loss`, a built-in metric, or the name of the user's function."""
    direction: Direction = "minimize"
    python: str | None = None
    """`metric.py:score`, in the folder of the prepared data: the user's own; None: built in."""

    @property
    def is_eval_loss(self) -> bool:
        """Whether it is the loss, which every evaluation gives."""
        return self.name == EVAL_LOSS and self.python is None

    @property
    def is_generated(self) -> bool:
        """Whether it needs completions that the model writes itself."""
        return self.python is not None or self.name in GENERATED_METRICS

    @property
    def heading(self) -> str:
        """As a table names it."""
        return "eval loss" if self.is_eval_loss else self.name

    @property
    def opening(self) -> str:
        """As a sentence begins with it: a metric keeps its name as it is."""
        return "Eval loss" if self.is_eval_loss else self.name

    @property
    def extreme(self) -> str:
        """`lowest` or `highest`: which value is the best."""
        return "lowest" if self.direction == "minimize" else "highest"

    def key(self, value: float) -> float:
        """Return what sorts values, the best first."""
        return value if self.direction == "minimize" else -value


BY_EVAL_LOSS = Objective()


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialConfig:
    """Everything that decides the outcome of one trial, fully resolved."""

    number: int
    """The trial's index in its study."""
    model: ModelConfig
    data_dir: str
    """Folder of the prepared data set (see `trials.data.tokens`)."""
    output_dir: str
    """The trial's own folder: config.json, log.txt, adapter/."""
    rank: int
    """LoRA rank r: A is (r, in_features), B is (out_features, r)."""
    alpha: float
    """An adapter's output is scaled by alpha / rank (rsLoRA: alpha / sqrt(rank))."""
    learning_rate: float
    """The peak of the schedule."""
    epochs: float
    """Passes over the training rows; may be a fraction."""
    effective_batch_size: int
    """Sequences per optimizer step. A hyperparameter: it changes the result."""
    gpus_per_trial: int
    """Processes that share each effective batch, one on each GPU."""
    micro_batch_size: int
    """What the first micro-batch of a GPU may hold, in rows of the greatest length: so many tokens.
    A memory setting: it must not change the result."""
    eval_batch_size: int
    """Sequences per forward pass of an evaluation: equal in all trials of a study, since sums in 16
    bits differ a little with the shape of a batch."""
    max_length: int
    """Tokens; longer training rows are cut."""
    dropout: float
    warmup_ratio: float
    """Share of the optimizer steps in which the learning rate rises."""
    weight_decay: float
    lr_scheduler: str
    optimizer: str
    max_grad_norm: float
    target_modules: str
    """A preset, `re:` and a pattern, or names with commas between them."""
    use_rslora: bool
    use_dora: bool
    """Whether the weights' magnitudes are trained apart from their directions (DoRA)."""
    neftune_alpha: float
    """Scale of the noise on embeddings while training (Jain et al., 2023); 0 is off."""
    n_evaluations: int
    """K: evaluations in a full run, evenly spread over the trial's own optimizer steps."""
    evaluate_base: bool
    """Whether to measure the base model's own eval loss before the first step (point 0)."""
    checkpoint_minutes: float
    """Training between two checkpoints of the trial; shorter trials write none."""
    stall_minutes: float
    """Without a step for so long, the trial's process is taken for hung and ended."""
    seed: int
    experts: bool = False
    """Whether routed experts are adapted too."""
    objective: Objective = BY_EVAL_LOSS
    row_nlls_at: tuple[int, ...] = ()
    """Indices: the first evaluation from each on reports each eval row's loss, however good it is.
    """
    measured_rows: str = ""
    """Instead of training: the split of `data_dir` that an adapter is measured on; empty: train."""
    measured_adapter: str = ""
    """The folder of that adapter; empty: the base model is measured alone."""
    answers: bool = False
    """Instead of training: whether that adapter answers the held-out prompts of `data_dir`."""
    most_rows: int | None = None
    """Of a micro-batch, however short its rows; None: no limit but its tokens."""
    confirms: int | None = None
    """The trial that this run of `sweep confirm` repeats with another seed; None: it is no such."""

    def __post_init__(self) -> None:
        if self.effective_batch_size % self.gpus_per_trial:
            raise ConfigError(
                f"effective_batch_size ({self.effective_batch_size}) must be a multiple of "
                f"gpus_per_trial ({self.gpus_per_trial})."
            )

    @property
    def rows_of_a_gpu(self) -> int:
        """Rows of an effective batch that each GPU learns."""
        return self.effective_batch_size // self.gpus_per_trial

    @property
    def name(self) -> str:
        """The trial as a person reads it in a list."""
        if self.confirms is not None:
            return self.label
        names = ("rank", "alpha", "learning_rate", "epochs", "effective_batch_size")
        return trial_name(self.number, {name: getattr(self, name) for name in names})

    @property
    def label(self) -> str:
        """What the trial is called amid a line."""
        if self.confirms is not None:
            return f"trial {self.confirms}, seed {self.seed} (run {self.number})"
        return f"trial {self.number:03d}"


def short_trial(model: ModelConfig, **changes: Any) -> TrialConfig:
    """Return a trial that does nothing but train, of rows of the model's greatest length.

    For what is tried out with a real trial; name what should differ.
    """
    usual: dict[str, Any] = {
        "number": 0,
        "model": model,
        "data_dir": "",
        "output_dir": "",
        "rank": 8,
        "alpha": 16.0,
        "learning_rate": 1e-3,
        "epochs": 1.0,
        "effective_batch_size": 16,
        "gpus_per_trial": 1,
        "micro_batch_size": 16,
        "eval_batch_size": 16,
        "max_length": model.max_length,
        "dropout": 0.0,
        "warmup_ratio": 0.0,
        "weight_decay": 0.0,
        "lr_scheduler": "constant",
        "optimizer": "adamw",
        "max_grad_norm": 1.0,
        "target_modules": PRESETS[0],
        "use_rslora": False,
        "use_dora": False,
        "neftune_alpha": 0.0,
        "n_evaluations": 1,
        "evaluate_base": False,
        "checkpoint_minutes": 60.0,
        "stall_minutes": 60.0,
        "seed": 0,
    }
    return TrialConfig(**usual | changes)


def largest_divisor(number: int, at_most: int) -> int:
    """Return the largest divisor of `number` that is not above `at_most` (at least 1)."""
    return next(d for d in range(min(number, at_most), 0, -1) if number % d == 0)


def trial_name(number: int, hyperparameters: Mapping[str, float]) -> str:
    """Return a trial's name: `017 r16 α32 lr3.1e-4 e2 b16`."""
    rate = f"{hyperparameters['learning_rate']:.1e}".replace("e-0", "e-").replace(".0e", "e")
    return (
        f"{number:03d} r{hyperparameters['rank']} α{hyperparameters['alpha']:g} lr{rate} "
        f"e{hyperparameters['epochs']:g} b{hyperparameters['effective_batch_size']}"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalPoint:
    """One evaluation of a trial. Losses are mean nats per completion token."""

    index: int
    """1…K: the share index/K of the trial's own run is done. 0: before the first step."""
    step: int
    """Optimizer steps taken."""
    epoch: float
    eval_loss: float
    train_loss: float | None
    """Over all completion tokens since the evaluation before; None at index 0."""
    learning_rate: float | None
    """Of the latest optimizer step; None at index 0."""
    grad_norm: float | None
    """Of the latest optimizer step, before clipping; None at index 0."""
    tokens_per_second: float | None
    """Tokens trained on (padding apart) since the evaluation before, per second of training."""
    gpu_memory_gib: float | None
    """Peak since the trial began; None on a CPU."""
    seconds: float
    """Since the trial began, without those in which it waited for verdicts."""
    tokens: int | None = None
    """Trained on since the trial began, padding apart; None at index 0, and where an earlier
    version counted none."""
    score: float | None = None
    """The objective, where that is a metric: NaN where the eval loss is not finite, since then it
    is not measured. None: the objective is the eval loss."""
    eval_loss_error: float | None = None
    """Standard error of the eval loss by the choice of rows, in nats; of a final evaluation alone.
    """
    score_draws: str | None = None
    """The objective on rows drawn again (`trials.evaluation.bootstrap`); likewise."""
    score_rows: int | None = None
    """Rows that `score` is of; likewise."""
    gpu_busy: float | None = None
    """Share of training since the evaluation before in which a kernel ran on the (first) GPU, other
    processes' included; None on a CPU, in a slice of MIG, and in less than a second."""
    row_nlls: str | None = None
    """Nats of each row of the eval sample (`trials.evaluation.row_nlls`): of the base model, of the
    best evaluation so far, and where peers are compared. None of all others, and with Unsloth."""

    step_losses: tuple[float, ...] | None = None
    """Train loss of each optimizer step since the evaluation before, the latest last. Reported once
    and kept nowhere: None of what is stored, and of what a trial that goes on reports again."""

    @property
    def value(self) -> float:
        """What the trial is judged by, in the objective's own unit and sign."""
        return self.eval_loss if self.score is None else self.score

    @property
    def is_finite(self) -> bool:
        """Whether every loss of this point is a number."""
        return math.isfinite(self.eval_loss) and math.isfinite(self.train_loss or 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """The verdict that ends a trial early."""

    outcome: Outcome
    reason: str
    """A sentence with its numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialResult:
    """How a trial ended."""

    outcome: Outcome
    reason: str
    """A sentence with its numbers; for a failure, its cause and the end of the log."""
    cause: str | None = None
    """For a failure: one line that is equal for failures of the same kind."""
    fault: Fault | None = None
    """For a failure that is not of the trial's own doing: it may run again."""
    best: EvalPoint | None = None
    """The evaluation with the best objective, the lower eval loss where that is equal; its adapter
    is the one on disk."""
    micro_batch_size: int | None = None
    """The most rows that a micro-batch held, and fitted; None when the trial ended before one had.
    """
    gradient_checkpointing: bool | None = None
    """Whether it fitted only with activations computed again; None as above."""
    training_seconds: float = 0.0
    evaluation_seconds: float = 0.0

    def __post_init__(self) -> None:
        # What a library raises may hold a row, or an address with a password: from here it goes to
        # the study, MLflow, the log, the report and the screen.
        object.__setattr__(self, "reason", harmless(self.reason))
        object.__setattr__(self, "cause", self.cause and harmless(self.cause))


Report = Callable[[EvalPoint], Stop | None]
"""Called after each evaluation; the answer is the verdict: None to go on."""
