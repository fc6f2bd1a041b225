"""Train two short trials on this process's device: `python -m trials.train_check REQUEST FOLDER`.

The base model is the built-in one, the rows are made here, so its eval loss is known beforehand.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from trials.config import Backend, EvalPoint, ModelConfig, TrialConfig, short_trial
from trials.data.tokens import TokenSplit
from trials.models.smollm2 import NAME, smollm2_dir

BASE_LOSS = 2.4857
"""Nats per token of the built-in model on the eval rows, in nf4 with bfloat16 matrix products.

Measured on processors by `sweep doctor --train --workers 1` (torch 2.13, transformers 5.17,
bitsandbytes 0.50); in plain 16 bits it is 2.28. Measure it again where rows or model change."""
EVAL_ROWS = (1000, 16)
"""The first, and how many."""
MAX_LENGTH = 128


def rows(begin: int, n: int) -> list[str]:
    """Rows of text, the same everywhere."""
    return [
        f"Question {i}: A train leaves with {7 * i % 90 + 10} people. At the next stop "
        f"{3 * i % 10} get off and {5 * i % 17} get on. How many are on the train now?\n"
        f"Answer: {7 * i % 90 + 10} - {3 * i % 10} + {5 * i % 17} = "
        f"{7 * i % 90 + 10 - 3 * i % 10 + 5 * i % 17} people are on the train now."
        for i in range(begin, begin + n)
    ]


def write_rows(folder: Path, n_train: int) -> None:
    """Write the rows as trials read them; every token is learnt."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir())
    for name, numbers in {"train": (0, n_train), "sample": EVAL_ROWS}.items():
        ids = tokenizer(rows(*numbers))["input_ids"]
        lengths = np.array([len(row) for row in ids])
        split = TokenSplit.of(
            ids=np.concatenate(ids).astype(np.int32),
            supervised=np.ones(lengths.sum(), np.bool_),
            lengths=lengths,
        )
        split.save(folder / name)


def config(number: int, backend: Backend, quantization: Any, folder: Path) -> TrialConfig:
    """Return a trial of a few seconds."""
    model = ModelConfig(
        name=NAME,
        revision=None,
        quantization=quantization,
        compute_dtype="auto",
        backend=backend,
        max_length=MAX_LENGTH,
        trust_remote_code=False,
    )
    return short_trial(
        model,
        number=number,
        data_dir=str(folder),
        output_dir=str(folder / str(number)),
        evaluate_base=True,
    )


def train(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return how both trials went, the loss that is known, and the memory that they have left.

    Args:
        request: `backend`, `quantization`, `n_rows` to train on.

    Raises:
        BaseNotClean: A trial has left something behind, or memory.
    """
    from trials.backends.loading import load

    first = config(0, request["backend"], request["quantization"], folder)
    base = load(first.model)  # before all that imports peft: Unsloth patches it
    import torch

    write_rows(folder, request["n_rows"])
    from trials.memory.micro_batches import MicroBatchMemory
    from trials.training.train import run_trial

    memory, trials = MicroBatchMemory(), []
    held = _held(torch)
    for number in range(2):
        points: list[EvalPoint] = []
        each = config(number, request["backend"], request["quantization"], folder)
        Path(each.output_dir).mkdir()
        result = run_trial(each, base, memory, points.append)
        trials.append({"outcome": result.outcome, "points": [asdict(point) for point in points]})
    return {"trials": trials, "known": BASE_LOSS, "left_mib": (_held(torch) - held) / 2**20}


def _held(torch: Any) -> int:
    return int(torch.cuda.memory_allocated()) if torch.cuda.is_available() else 0


if __name__ == "__main__":
    print("\n" + json.dumps(train(json.loads(sys.argv[1]), Path(sys.argv[2]))))
