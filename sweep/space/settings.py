"""The keys of a space, the search apart: types, bounds and defaults."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sweep.space.hyperparameters import LONGEST


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,  # `sweep schema` shows them
    )


class Data(_Strict):
    """`data`: where the rows are and how they are read."""

    train: str | Annotated[list[str], Field(min_length=1)]
    """A file (JSONL, JSON, CSV, TSV, Parquet) beside the space, or a hub data set; or a list."""
    eval: str | Annotated[float, Field(gt=0, lt=1)] | Annotated[list[str], Field(min_length=1)]
    """The same, or the share of train to hold out (equal rows stay on one side)."""
    test: (
        str | Annotated[float, Field(gt=0, lt=1)] | Annotated[list[str], Field(min_length=1)] | None
    ) = None
    """As eval. These rows decide nothing: winner, second and base model are measured on them at
    the end."""
    max_length: Annotated[int, Field(gt=1, le=LONGEST)] | None = None
    """Tokens; longer rows are cut, and `sweep check` says how many."""
    columns: dict[str, str] = {}
    """Maps our column names to the file's."""
    template: str | None = None
    """Builds plain text from columns, such as `{title}: {body}`; excludes `columns`."""
    prompt: str | None = None
    """Builds the prompt from columns, such as `Question: {question}`; needs `completion`."""
    completion: str | None = None
    """Builds the completion from columns, such as ` {answer}`; needs `prompt`."""
    system: str | None = None
    """The system turn of every conversation that has none of its own."""
    chat: bool | None = None
    """Render prompt and completion with the model's chat template. With false they are joined as
    they are: put the space or line break between them into the data."""
    chat_template: Annotated[str, Field(min_length=1)] | None = None
    """A Jinja file beside the space, such as `mine.jinja`, or a known template, such as `chatml`;
    in place of the tokenizer's own."""
    template_arguments: dict[str, Any] = {}
    """What the chat template is given, such as `enable_thinking: false`."""
    ignore: list[str] = []
    """Columns and keys of turns that change the meaning of a row, and are left out knowingly."""
    skip_bad_rows: bool = False
    """Leave out rows that cannot be used, and say how many; false: any such row is an error."""
    loss_on: Literal["completion", "all"] = "completion"
    """The tokens to learn from, and to measure eval loss on."""

    @property
    def chats(self) -> bool | None:
        """`chat`; with a prompt template of the space's own false, unless it says otherwise."""
        return False if self.chat is None and self.prompt is not None else self.chat


class BudgetSettings(_Strict):
    """`budget`: the sweep ends at whichever comes first."""

    trials: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Ended trials in the whole study, whatever their outcome."""
    hours: Annotated[float, Field(gt=0, le=100_000)] | None = None
    """Wall-clock hours of this command, not those of Ctrl-Z; running trials are then interrupted,
    to resume later."""
    gpu_hours: Annotated[float, Field(gt=0, le=1e9)] | None = None
    """GPU-hours (or CPU worker-hours) of the whole study; running trials are then interrupted."""
    stop_when_flat: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many trials in a row without a gain beyond noise, which is the median change
    between a trial's late evaluations."""
    price_per_gpu_hour: Annotated[float, Field(gt=0)] | None = None
    """What a GPU-hour costs, in your currency: GPU-hours are then told with their price."""

    @property
    def limits(self) -> dict[str, Any]:
        """What may end the sweep."""
        return self.model_dump(exclude={"price_per_gpu_hour"})


class Evaluate(_Strict):
    """`evaluate`: how often, on how many rows."""

    times: Annotated[int, Field(ge=1, le=1000)] = 20
    """Evaluations in a full trial, evenly spaced over its run (K below)."""
    rows: Annotated[int, Field(ge=1)] = 256
    """Maximum eval rows per evaluation."""


class ObjectiveSettings(_Strict):
    """`objective`: what trials are judged by. Eval loss is logged all the same."""

    metric: Literal["eval_loss", "token_accuracy", "exact_match", "rouge_l"] | None = None
    """A built-in metric: eval_loss unless python is given. exact_match and rouge_l compare what the
    model generates for held-out prompts with the reference completions."""
    python: Annotated[str, Field(min_length=1)] | None = None
    """Your own metric, as `my_metrics.py:score`: a function in a file beside the space."""
    direction: Literal["minimize", "maximize"] | None = None
    """Whether lower or higher is better. Needed with python; built-in metrics have their own."""
    rows: Annotated[int, Field(ge=1)] = 64
    """Maximum eval rows to generate completions for, per evaluation."""
    max_new_tokens: Annotated[int, Field(ge=1, le=8192)] | None = None
    """Maximum tokens of a generated completion."""


class OverfitSettings(_Strict):
    """`pruning.overfit`"""

    min_rise: Annotated[float, Field(gt=0)] = 0.01
    """Relative rise above the trial's own best eval loss."""
    patience: Annotated[int, Field(ge=1)] = 4
    """Evaluations in a row above that rise before the trial stops."""


class DivergedSettings(_Strict):
    """`pruning.diverged`"""

    factor: Annotated[float, Field(gt=1)] = 1.5
    """Factor by which losses may rise; cannot be switched off."""


Share = Annotated[float, Field(gt=0, lt=1)]


class OutclassedSettings(_Strict):
    """`pruning.outclassed`"""

    pruner: Literal["asha", "successive_halving", "hyperband", "median", "percentile"] = "asha"
    """asha: asynchronous successive halving that pauses trials, and resumes those that rank among
    the best later. The others are Optuna's, and end a trial for good."""
    factor: Annotated[int, Field(ge=2)] = 3
    """For asha, successive_halving and hyperband: the best 1 in this many continue."""
    rungs: Annotated[list[Share], Field(min_length=1)] = [0.15]
    """For asha: the shares of a trial's run at which it is compared."""
    standard_errors: Annotated[float, Field(ge=0)] = 2.0
    """For asha: a difference below this many of its standard errors over the eval rows pauses no
    trial; with 0 any difference does."""
    percentile: Annotated[float, Field(gt=0, lt=100)] = 25.0
    """For percentile: the best this many per cent continue."""
    min_peers: Annotated[int, Field(ge=1)] = 4
    """Other trials that must have come as far before any trial is stopped (with asha: before any
    continues)."""


class Pruning(_Strict):
    """`pruning`: false switches each off, but for diverged."""

    overfit: OverfitSettings | Literal[False] = OverfitSettings()
    """Stop trials that overfit; false: never."""
    diverged: DivergedSettings = DivergedSettings()
    """When a trial counts as diverged."""
    outclassed: OutclassedSettings | Literal[False] = OutclassedSettings()
    """Stop trials that rank below their peers; false: never."""


class FinalSettings(_Strict):
    """`final_evaluation`: what the best trials are measured on at the end."""

    base: Literal["as-trained", "16-bit"] = "as-trained"
    """The base model's weights when the winner is chosen: as in training, or in 16 bits, as many
    serve it. With as-trained the first two are also measured in 16 bits where that fits."""


SweepName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""A folder's name, and no path."""


class Settings(_Strict):
    """The keys of the file, the search apart."""

    name: SweepName
    """The study, the MLflow experiment, the folder under `sweeps/`: letters, digits, `.`, `_`
    and `-`."""
    base_model: Annotated[str, Field(min_length=1)]
    """A hub id, a folder, or the built-in `smollm2-135m`."""
    revision: Annotated[str, Field(pattern=r"^[\w+-]+([./][\w+-]+)*$", max_length=100)] | None = (
        None
    )
    """A branch, tag or commit of the hub."""
    trust_remote_code: bool = False
    """Whether the model's own Python code may run."""
    backend: Literal["auto", "transformers", "unsloth"] = "auto"
    """The trainer. auto: Unsloth on GPUs if installed and fit, else transformers with peft."""
    quantization: Literal["nf4", "int8", "none"] | None = None
    """Of the frozen weights: 4 bits with double quantisation, 8 bits, or 16 bits. A checkpoint that
    is quantised already keeps its own; FP8 and MXFP4 are turned into 16 bits."""
    compute_dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Of the matrix products. auto: bfloat16, or float16 on a GPU that only emulates it."""
    optimizer: Literal["auto", "adamw", "adamw_8bit", "paged_adamw_8bit"] = "auto"
    """auto: adamw, whose steps never wait for the GPU; a sweep that has begun keeps its own."""
    micro_batch_size: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """The most rows per forward pass. auto: as many as have the tokens of 16 of the longest (8
    without a GPU). Memory that runs out halves the tokens, and the result stays the same."""
    gpus_per_trial: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] = 1
    """GPUs per trial; they split every effective batch, so each `effective_batch_size` must be a
    multiple. 0.5: two trials share a GPU, each with half of its memory."""
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 10.0
    """Minutes of training between checkpoints; shorter trials write none."""
    stall_minutes: Annotated[float, Field(gt=0)] = 30.0
    """Minutes without a step after which a trial's process counts as hung: it is killed, and the
    trial runs again."""
    data: Data
    """Where the rows are and how they are read."""
    budget: BudgetSettings = BudgetSettings()
    """The sweep ends at the first limit it reaches."""
    evaluate: Evaluate = Evaluate()
    """How often, and on how many rows."""
    objective: ObjectiveSettings = ObjectiveSettings()
    """What trials are judged by."""
    pruning: Pruning = Pruning()
    """When trials are stopped early."""
    sampler: Literal["tpe", "gp", "qmc", "random", "grid"] = "tpe"
    """What proposes the next point. tpe and gp (a Gaussian process) learn from earlier trials; qmc
    spreads points more evenly than random; grid tries every point, and needs lists or ranges with
    steps."""
    start_from: SweepName | list[SweepName] | None = None
    """Names of earlier sweeps: the best three trials of each are tried first, as far as they lie in
    this space. Looked up in the folder of sweeps, then in MLflow, at `--mlflow` or
    MLFLOW_TRACKING_URI."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the sampler, the split and every trial."""
    keep_adapters: Annotated[int, Field(ge=1)] = 5
    """How many of the best trials keep their adapters, on disk and in MLflow."""
    final_evaluation: FinalSettings | Literal[True] | Literal[False] = FinalSettings()
    """Measure the five best adapters and the base model on all eval rows at the end; that decides
    the winner. It takes at most 5 % of `budget.hours`."""
    answers: Annotated[int, Field(ge=0, le=100)] = 8
    """Held-out prompts that the base model, the winner and the second answer at the end, within the
    same 5 %; shown in the report, in `sweep best` and in MLflow. 0: none; no prompt goes there."""
    # Python's own `register` of every class is in the way of the key's name.
    register_as: Annotated[str, Field(pattern=r"^[^/:\x00-\x1f]+$", max_length=200)] | None = Field(
        default=None, alias="register"
    )
    """A model in MLflow's registry; the winner is added as a version, alias `champion`."""

    @property
    def final(self) -> FinalSettings | None:
        """None: no final evaluation."""
        given = self.final_evaluation
        return FinalSettings() if given is True else given or None

    @property
    def earlier(self) -> list[str]:
        """Names of the sweeps of `start_from`, each once."""
        given = self.start_from or []
        return list(dict.fromkeys([given] if isinstance(given, str) else given))

    @property
    def processes_per_trial(self) -> int:
        """That train a trial together: one for each whole GPU."""
        return max(1, int(self.gpus_per_trial))


UNSET: dict[str, str] = {
    "name": "the file's name",
    "revision": "the hub's default branch",
    "quantization": "nf4; the checkpoint's own form if it is quantised already",
    "data.test": "no rows",
    "data.max_length": "1024",
    "data.chat": "true if the model has a chat template and `prompt` is not set",
    "budget.trials": "24, if no other budget is given",
    "budget.hours": "no limit",
    "budget.gpu_hours": "no limit",
    "budget.stop_when_flat": "no limit",
    "budget.price_per_gpu_hour": "no price is told",
    "objective.metric": "eval_loss",
    "objective.direction": "the metric's",
    "objective.max_new_tokens": "the longest reference completion, at most 256 beyond its thoughts",
}
"""What holds where a key without a default of its own is left out."""


EITHER_OR: dict[tuple[str | int, ...], str] = {
    ("data", "train"): "a file of rows, or a list of files",
    ("data", "eval"): "a file of rows, a list of files, or a share of train between 0 and 1",
    ("data", "test"): "a file of rows, a list of files, or a share of train between 0 and 1",
    ("micro_batch_size",): "auto, or a whole number of rows from 1",
    ("gpus_per_trial",): "a whole number of GPUs from 1, or a share of one between 0 and 1",
    ("start_from",): "the name of an earlier sweep, or a list of names",
    ("final_evaluation",): "true, false, or keys and values",
    ("pruning", "overfit"): "false, or keys and values",
    ("pruning", "outclassed"): "false, or keys and values",
}
"""Settings that take two kinds of value: pydantic complains once for each."""


def as_name(text: str) -> str:
    """The nearest name of a sweep to any text."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-")[:100].rstrip("-") or "sweep"


def keys_at(path: tuple[str | int, ...]) -> list[str]:
    """The keys that may stand in a section; () is the top of the file."""
    model: Any = Settings
    for part in path:
        annotation = model.model_fields[str(part)].annotation
        options = getattr(annotation, "__args__", (annotation,))
        model = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    keys = [field.alias or name for name, field in model.model_fields.items()]
    return [*keys, "search", "start_with"] if model is Settings else keys
