"""A trial beside TRL's SFTTrainer, warm beside cold: `python -m tests.benchmarks.trial`.

Each side trains the same rows with the same settings, step by step, in a process of its own; the
sides take turns. TRL is used as its guide says for QLoRA: prompts and completions, 4 bits, an
adapter on all linear layers. Apart from that, in TRL's favour or for equal work:

- Its rows come in our order, so each step has the same ones; its micro-batches are as they come.
- Gradient checkpointing, on by default, is off; one more side leaves it on.
- Its fused loss is a Triton kernel, which runs on GPUs only. On processors a plain cross entropy
  over the supervised positions stands in for it, without the entropy and the accuracy that TRL
  computes along with the loss.
- On processors a bitsandbytes kernel without a backward pass is off, as it is on our side.

TRL trains the adapter in bfloat16, we in float32. Neither side evaluates while it is timed.

`--mixed` takes rows of unequal length in place of a file. `--before FOLDER` adds a side: the
`trials` of another commit, checked out there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from itertools import cycle, islice, pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from trials.config import ModelConfig, TrialConfig
from trials.data.examples import Reading, read_examples

if TYPE_CHECKING:
    import torch

    from trials.data.tokens import TokenRows

QUICKSTART = Path(__file__).parents[2] / "search_spaces/data/quickstart/train.jsonl"
MICRO_BATCH_SIZE = 8
EFFECTIVE_BATCH_SIZE = 16
MAX_LENGTH = 512
RANK = 16
ALPHA = 32
LEARNING_RATE = 2e-4
SEED = 0
WARM_UP_STEPS = 2
"""Not timed."""
N_SCORED_ROWS = 64
"""Of the training rows, on which both sides' adapters are compared."""
N_GAPS = 4
MODEL = ModelConfig(
    name="smollm2-135m",
    revision=None,
    quantization="nf4",
    compute_dtype="bfloat16",
    backend="transformers",
    max_length=MAX_LENGTH,
    trust_remote_code=False,
)
LONG_SHARE, SHORT, LONG = 0.1, (20, 100), (400, MAX_LENGTH)
"""Of the mixed rows: how many are long, and tokens of both kinds."""
SIDES = {
    "ours": "ours",
    "before": "ours, the commit before",
    "trl": "TRL",
    "trl-defaults": "TRL, gradient checkpointing on",
    "ours-padded": "ours, rows always padded",
    "ours-packed": "ours, rows always end to end",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What one side did after its first steps."""

    step_seconds: list[float]
    tokens: int
    supervised_tokens: int
    computed_tokens: int
    """Those that went through the model, padding included."""
    loaded_gib: float
    peak_gib: float
    """On a GPU what was allocated, on processors what the whole process held."""
    loss: float
    """Of the trained adapter on training rows, in mean nats per supervised token."""


def main() -> None:
    """Measure all sides in turn and print the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    data_help = "JSON lines: prompt, completion (default: the quick start's)"
    add("--data", type=Path, default=QUICKSTART, help=data_help)
    add("--mixed", action="store_true", help="rows of 20 to 100 and of 400 to 512 tokens")
    before_help = "checkout of another commit, for the side `before`"
    add("--before", type=Path, metavar="FOLDER", help=before_help)
    default = "(default: %(default)s)"
    add("--rows", type=int, default=1000, help=f"rows drawn from the data, at most {default}")
    add("--steps", type=int, default=12, help=f"optimizer steps that are timed {default}")
    add("--rounds", type=int, default=3, help=f"how often each side has its turn {default}")
    add("--threads", type=int, default=2, help=f"of each process {default}")
    sides_help = f"{', '.join(SIDES)} (default: all; before needs --before)"
    add("--sides", nargs="+", choices=SIDES, metavar="SIDE", help=sides_help)
    args = parser.parse_args()
    if "before" in (args.sides or []) and args.before is None:
        parser.error("--sides before: needs --before FOLDER.")
    sides = [side for side in args.sides or SIDES if side != "before" or args.before]
    # Before torch is imported, here and in the sides' processes.
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["HF_HUB_OFFLINE"] = "1"
    measured: dict[str, list[Measured]] = defaultdict(list)
    gaps = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = write_mixed(folder / "mixed.jsonl", args.data) if args.mixed else args.data
        write_rows(folder, data, args.rows, WARM_UP_STEPS + args.steps)
        in_a_process("gaps", folder)  # from here on the quantised base model is on disk
        for _ in range(args.rounds):
            for side in sides:
                measured[side].append(Measured(**in_a_process(side, folder, args.before)))
                seconds = sum(measured[side][-1].step_seconds)
                print(f"{side}: {seconds:.1f} s, load {os.getloadavg()[0]:.1f}", flush=True)
            gaps.append(in_a_process("gaps", folder))
    print_sides(measured)
    print_gaps(gaps)


def write_mixed(path: Path, data: Path) -> Path:
    """Write 1,000 rows of the words of `data`: nine in ten are short, the others long."""
    from trials.models.sources import load_tokenizer

    rows = [json.loads(line) for line in data.read_text().splitlines()]
    words = " ".join(f"{row['prompt']} {row['completion']}" for row in rows)
    tokenizer, draw = load_tokenizer(MODEL), random.Random(SEED)
    ids = tokenizer(words)["input_ids"]
    lines = []
    for _ in range(1000):
        n_tokens = draw.randint(*(LONG if draw.random() < LONG_SHARE else SHORT)) - 2
        first = draw.randrange(len(ids) - n_tokens)
        cut = first + n_tokens // 3
        prompt, completion = ids[first:cut], ids[cut : first + n_tokens]
        row = {"prompt": tokenizer.decode(prompt), "completion": tokenizer.decode(completion)}
        lines.append(json.dumps(row))
    path.write_text("\n".join(lines) + "\n")
    return path


def write_rows(folder: Path, data: Path, n_rows: int, n_steps: int) -> None:
    """Write the rows of a run twice: tokenised for us, and in the order of our steps for TRL."""
    from trials.data.batches import EffectiveBatches
    from trials.models.sources import load_tokenizer
    from trials.rendering.renderer import Renderer

    examples = read_examples(str(data.resolve()), key="--data", reading=Reading()).examples
    random.Random(SEED).shuffle(examples)
    examples = list(islice(cycle(examples[:n_rows]), n_steps * EFFECTIVE_BATCH_SIZE))
    renderer = Renderer(load_tokenizer(MODEL), chat=False, loss_on="completion")
    tokens, _ = renderer.tokenized(examples)
    tokens.save(folder / "train")
    tokens.taken(range(8), MAX_LENGTH).save(folder / "sample")
    batches = EffectiveBatches(tokens.lengths, size=EFFECTIVE_BATCH_SIZE, seed=SEED)
    order = [row for step in range(n_steps) for row in sorted(batches[step])]
    lines = [
        json.dumps({"prompt": examples[row].prompt, "completion": examples[row].completion})
        for row in order
    ]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")


def in_a_process(side: str, folder: Path, before: Path | None = None) -> dict[str, Any]:
    """Run one side in a fresh process and return what it measured.

    Args:
        before: Where the side `before` takes `trials` from.
    """
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); import runpy; "
    code += "runpy.run_path(sys.argv.pop(1))['measure_side'](*sys.argv[1:])"
    answer = folder / "answer.json"
    trials = before if side == "before" and before else Path(__file__).parents[2]
    paths = [str(trials.resolve()), __file__]
    command = [sys.executable, "-c", code, *paths, side, str(folder), str(answer)]
    command.append(repr(time.time()))
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stdout}")
    measured: dict[str, Any] = json.loads(answer.read_text())
    return measured


def measure_side(side: str, folder: str, answer: str, began: str) -> None:
    """Be the process of one side."""
    measured: Any
    if side == "gaps":
        measured = worker_gaps(Path(folder), float(began))
    elif side.startswith("trl"):
        measured = asdict(trl(Path(folder), gradient_checkpointing=side == "trl-defaults"))
    else:
        packs = {"ours-padded": False, "ours-packed": True}.get(side)
        measured = asdict(ours(Path(folder), packs=packs))
    Path(answer).write_text(json.dumps(measured))


def trial_config(folder: Path, number: int = 0, epochs: float = 1) -> TrialConfig:
    """Our settings of the run."""
    return TrialConfig(
        number=number,
        model=MODEL,
        data_dir=str(folder),
        output_dir=str(folder / f"trials/{number:03d}"),
        rank=RANK,
        alpha=ALPHA,
        learning_rate=LEARNING_RATE,
        epochs=epochs,
        effective_batch_size=EFFECTIVE_BATCH_SIZE,
        gpus_per_trial=1,
        micro_batch_size=MICRO_BATCH_SIZE,
        eval_batch_size=MICRO_BATCH_SIZE,
        max_length=MAX_LENGTH,
        dropout=0.0,
        warmup_ratio=0.0,
        weight_decay=0.0,
        lr_scheduler="constant",
        optimizer="adamw",
        max_grad_norm=1.0,
        target_modules="all-linear",
        use_rslora=False,
        use_dora=False,
        neftune_alpha=0.0,
        n_evaluations=1,
        evaluate_base=False,
        checkpoint_minutes=1e9,
        stall_minutes=10.0,
        seed=SEED,
    )


def ours(folder: Path, *, packs: bool | None) -> Measured:
    """Train as `run_trial` does between two evaluations.

    Args:
        packs: Whether rows lie end to end; None: as the backend decides for each micro-batch.
    """
    from trials.backends.loading import load
    from trials.backends.transformers_qlora import TransformersBase
    from trials.data.tokens import TokenRows
    from trials.distributed.group import ALONE
    from trials.memory.micro_batches import MicroBatchMemory
    from trials.training.learner import Learner

    base = load(MODEL)
    if packs is not None:
        patch.object(TransformersBase, "_packs", lambda self, batch: packs).start()
    rows = TokenRows(folder / "train", MAX_LENGTH)
    learner = Learner(trial_config(folder), base, MicroBatchMemory(), rows, ALONE)
    meter = Meter(learner.model, base.device)
    learner.model.train()
    for step in range(learner.n_steps):
        learner.take_step(step)
        meter.step()
    timed = [row for step in range(WARM_UP_STEPS, learner.n_steps) for row in learner.batches[step]]
    return meter.measured([rows[row] for row in timed], rows)


def trl(folder: Path, *, gradient_checkpointing: bool) -> Measured:
    """Train with SFTTrainer."""
    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from trials.data.tokens import TokenRows
    from trials.models.smollm2 import smollm2_dir

    model = model_for_trl()
    torch.manual_seed(SEED)  # ours is seeded there too: both draw the same adapter
    trainer = SFTTrainer(
        model=model,
        processing_class=AutoTokenizer.from_pretrained(smollm2_dir()),
        train_dataset=load_dataset(
            "json", data_files=str(folder / "train.jsonl"), split="train", cache_dir=str(folder)
        ),
        peft_config=LoraConfig(
            r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        args=SFTConfig(
            output_dir=str(folder / "trl"),
            per_device_train_batch_size=MICRO_BATCH_SIZE,
            gradient_accumulation_steps=EFFECTIVE_BATCH_SIZE // MICRO_BATCH_SIZE,
            max_length=MAX_LENGTH,
            completion_only_loss=True,
            num_train_epochs=1,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            gradient_checkpointing=gradient_checkpointing,
            train_sampling_strategy="sequential",
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=SEED,
        ),
    )
    meter = Meter(trainer.model, model.device)

    class Steps(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            meter.step()

    trainer.add_callback(Steps())
    trainer.train()
    timed = list(trainer.train_dataset)[WARM_UP_STEPS * EFFECTIVE_BATCH_SIZE :]
    return meter.measured(timed, TokenRows(folder / "train", MAX_LENGTH))


def model_for_trl() -> Any:
    """Return the base model in 4 bits, and make TRL able to train it on processors."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from trials.models.smollm2 import smollm2_dir

    has_gpu = torch.cuda.is_available()
    if not has_gpu:
        patch("trl.trainer.utils._ChunkedLogProbFunction", PlainLogProbs).start()
    model = AutoModelForCausalLM.from_pretrained(
        smollm2_dir(),
        dtype=torch.bfloat16,
        device_map={"": 0 if has_gpu else "cpu"},
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
    )
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


class PlainLogProbs:
    """In place of TRL's Triton kernel: the part of its answer that the loss is made of."""

    @staticmethod
    def apply(
        hidden: torch.Tensor, weight: torch.Tensor, bias: Any, targets: torch.Tensor, *_: Any
    ) -> tuple[Any, ...]:
        """Return log-probabilities of `targets`, (targets,); zeros for TRL's other metrics."""
        import torch.nn.functional as F  # noqa: N812 - torch's own spelling

        logits = F.linear(hidden, weight, bias).float()
        log_probs = -F.cross_entropy(logits, targets, reduction="none")
        nothing = log_probs.detach().new_zeros(log_probs.shape)
        return log_probs, nothing, None, None, nothing.bool()


class Meter:
    """Time, memory and tokens of a model that is being trained."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self._model, self._device = model, device
        self._loaded_gib = self._peak_gib()
        self._stamps: list[float] = []
        self._computed_tokens = 0
        model.get_input_embeddings().register_forward_pre_hook(self._count)

    def _count(self, _: Any, args: tuple[torch.Tensor]) -> None:
        if len(self._stamps) >= WARM_UP_STEPS:
            self._computed_tokens += args[0].numel()

    def step(self) -> None:
        """An optimizer step has been taken."""
        import torch

        if self._device.type == "cuda":
            torch.cuda.synchronize()
        self._stamps.append(time.perf_counter())

    def measured(self, timed: list[Any], rows: TokenRows) -> Measured:
        """Return what was measured, and score the adapter.

        Args:
            timed: The rows of all steps after the first, with `input_ids` and `labels`.
            rows: Those to score the adapter on.
        """
        computed, peak = self._computed_tokens, self._peak_gib()
        return Measured(
            step_seconds=[b - a for a, b in pairwise(self._stamps[WARM_UP_STEPS - 1 :])],
            tokens=sum(len(row["input_ids"]) for row in timed),
            supervised_tokens=sum(int(x) >= 0 for row in timed for x in row["labels"][1:]),
            computed_tokens=computed,
            loaded_gib=self._loaded_gib,
            peak_gib=peak,
            loss=loss(self._model, rows, self._device),
        )

    def _peak_gib(self) -> float:
        import torch

        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def loss(model: Any, rows: TokenRows, device: torch.device) -> float:
    """Return the mean nats per supervised token, row by row: nothing of either side's own."""
    import torch
    import torch.nn.functional as F  # noqa: N812 - torch's own spelling

    model.eval()
    total, n_tokens = 0.0, 0
    for index in range(min(N_SCORED_ROWS, len(rows))):
        row = rows[index]
        ids = torch.as_tensor(row["input_ids"], device=device)
        labels = torch.as_tensor(row["labels"], device=device)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            logits = model(input_ids=ids[None]).logits[0, :-1].float()
        total += float(F.cross_entropy(logits, labels[1:], reduction="sum"))
        n_tokens += int((labels[1:] >= 0).sum())
    return total / n_tokens


def worker_gaps(folder: Path, began: float) -> dict[str, Any]:
    """Run short trials in one worker; return its cold start and the gaps between its trials.

    Args:
        began: When this process was started.
    """
    from trials.backends.transformers_qlora import TransformersBase
    from trials.messages import Ended, Reported
    from trials.worker import TrialThread

    forwards: list[float] = []
    reported: list[float] = []
    ended: list[float] = []
    nll_sum = TransformersBase.nll_sum

    def stamped(*args: Any) -> torch.Tensor:
        forwards.append(time.time())
        return nll_sum(*args)

    patch.object(TransformersBase, "nll_sum", stamped).start()
    n_steps = sum(1 for _ in (folder / "train.jsonl").open()) // EFFECTIVE_BATCH_SIZE
    worker = TrialThread(MODEL)
    for number in range(N_GAPS + 1):
        worker.start(number, trial_config(folder, number, epochs=2 / n_steps))
    while len(ended) <= N_GAPS:
        match worker.events.get():
            case Reported():
                reported.append(time.time())
                worker.answer(None)
            case Ended(result=result):
                ended.append(time.time())
                if result.outcome != "completed":
                    raise SystemExit(result.reason)
    first = [next(stamp for stamp in forwards if stamp > before) for before in ended[:-1]]
    return {
        "cold": forwards[0] - began,
        "from_end": [b - a for a, b in zip(ended[:-1], first, strict=True)],
        "from_last_evaluation": [b - a for a, b in zip(reported[:-1], first, strict=True)],
    }


def print_sides(measured: dict[str, list[Measured]]) -> None:
    """Print a line for each side; a step's time is the median of its rounds, or the fastest."""
    if len({(one.tokens, one.supervised_tokens) for [one, *_] in measured.values()}) > 1:
        raise SystemExit(f"the sides have not trained on the same tokens: {measured}")
    print("\nOn processors TRL has a plain cross entropy in place of its Triton kernel.")
    print(f"{'side':32}tokens/s  fastest  supervised/s  padding  loaded, peak GiB   loss")
    for side, rounds in measured.items():
        one = rounds[0]
        steps = list(zip(*(each.step_seconds for each in rounds), strict=True))
        seconds, fastest = sum(map(median, steps)), sum(map(min, steps))
        print(
            f"{SIDES[side]:32}{one.tokens / seconds:8.1f}{one.tokens / fastest:9.1f}"
            f"{one.supervised_tokens / seconds:14.1f}{1 - one.tokens / one.computed_tokens:9.1%}"
            f"{median(each.loaded_gib for each in rounds):9.2f}"
            f"{median(each.peak_gib for each in rounds):9.2f}{one.loss:9.4f}"
        )


def print_gaps(rounds: list[dict[str, Any]]) -> None:
    """Print how long a worker's process takes to its first forward pass, cold and warm."""
    cold = median(each["cold"] for each in rounds)
    print(f"\ncold, from the start of the process to the first forward pass: {cold:.2f} s")
    for name in ("from_end", "from_last_evaluation"):
        gap = median(gap for each in rounds for gap in each[name])
        print(
            f"warm, {name.replace('_', ' ')} of a trial to the next one's first forward pass: "
            f"{gap * 1000:.0f} ms, {gap / cold:.1%} of cold"
        )


if __name__ == "__main__":
    main()
