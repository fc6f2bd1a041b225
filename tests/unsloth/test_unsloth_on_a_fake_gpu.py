"""Unsloth's real code trains as transformers does, on a GPU that is not there, in float16.

nf4 is not here: no library quantises for Unsloth's kernels on a CPU (see tests/gpu).
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import random
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests import tiny
from tests.unsloth.environment import ROOT, CannotInstall, make_environment
from trials.backends.loading import load
from trials.config import EvalPoint, ModelConfig, TrialConfig
from trials.data.batches import collate
from trials.data.tokens import TokenRows
from trials.memory.micro_batches import MicroBatchMemory
from trials.preparation.prepare import prepare
from trials.training.train import run_trial

pytestmark = pytest.mark.long

N_TRIALS = 3


@dataclass(frozen=True, slots=True)
class Course:
    """What Unsloth did in a process of its own (see `tests.unsloth.work`)."""

    configs: list[TrialConfig]
    trials: list[dict[str, Any]]
    recomputed: list[dict[str, Any]]
    """Gradients of recomputing beside those of a plain pass."""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python that has Unsloth."""
    try:
        return make_environment(tmp_path_factory.mktemp("unsloth"))
    except CannotInstall as error:
        pytest.skip(f"unsloth and triton cannot be installed: {error}")


@pytest.fixture(scope="module")
def data(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few and short rows: the interpreter takes 65 ms a token and step.

    Their words are new to the base, so that a trial changes its loss by much more than 1 %.
    """
    folder = tmp_path_factory.mktemp("rows")
    facts = list(itertools.product(tiny.PLACES, tiny.SKIES, tiny.WINDS))
    random.Random(4).shuffle(facts)
    lines = [
        {"prompt": f"{p} {s} {w} :", "completion": f" sing sing sing {p} sing sing {s} and {w}"}
        for p, s, w in facts
    ]
    for name, part in (("train", lines[:8]), ("eval", lines[8:12])):
        text = "".join(json.dumps(line) + "\n" for line in part)
        (folder / f"{name}.jsonl").write_text(text)
    files = {name: str(folder / f"{name}.jsonl") for name in ("train", "eval")}
    prepare(tiny.request(tiny_base, folder / "prepared", **files, smallest_epochs=100))
    return folder / "prepared"


def trial(base: Path, data: Path, folder: Path, model: ModelConfig) -> TrialConfig:
    return tiny.trial_config(
        base,
        data,
        folder,
        model=model,
        learning_rate=1e-2,
        effective_batch_size=4,
        micro_batch_size=4,
        n_evaluations=2,
        evaluate_base=True,
    )


@pytest.fixture(scope="module")
def course(
    python: Path, tiny_base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Course:
    folder = tmp_path_factory.mktemp("course")
    model = replace(
        tiny.model_config(tiny_base),
        backend="unsloth",
        quantization="none",
        compute_dtype="float16",  # Triton's interpreter has no bfloat16 of its own
    )
    configs = [trial(tiny_base, data, folder / str(i), model) for i in range(N_TRIALS)]
    done = subprocess.run(
        [str(python), "-m", "tests.unsloth.work"],
        input=pickle.dumps(configs),
        capture_output=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    said = done.stderr.decode()
    assert done.returncode == 0, said[-5000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]
    return Course(configs, found[:N_TRIALS], found[N_TRIALS:])


@pytest.fixture(scope="module")
def losses(tiny_base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Of the same trial with transformers, in float32."""
    model = replace(tiny.model_config(tiny_base), quantization="none", compute_dtype="float32")
    config = trial(tiny_base, data, tmp_path_factory.mktemp("transformers"), model)
    points: list[EvalPoint] = []
    run_trial(config, load(config.model), MicroBatchMemory(), points.append)
    return [point.eval_loss for point in points]


def test_every_trial_has_the_losses_of_transformers(course: Course, losses: list[float]) -> None:
    assert losses[-1] < 0.8 * losses[0]  # else 1 % would tell nothing
    for number in range(N_TRIALS):
        assert course.trials[number]["losses"] == pytest.approx(losses, rel=1e-2)


def test_the_base_is_clean_after_each_trial(course: Course) -> None:
    # `run_trial` raises where it is not, but for a hook that was there before.
    assert [found["outcome"] for found in course.trials] == ["completed"] * N_TRIALS
    assert [found["hooks"] for found in course.trials] == [0] * N_TRIALS


def test_computing_activations_again_changes_nothing_for_it_nor_for_the_next(
    course: Course,
) -> None:
    plain, recomputing, again = course.trials
    assert [found["recomputes"] for found in course.trials] == [False, True, False]
    assert recomputing["losses"] == pytest.approx(plain["losses"], rel=1e-4)
    assert again["losses"] == plain["losses"]


@pytest.mark.parametrize("is_armed", [True, False])
def test_gradients_are_those_of_a_plain_pass_whether_or_not_layers_had_recomputed_before(
    course: Course, is_armed: bool
) -> None:
    found = next(found for found in course.recomputed if found["armed"] is is_armed)
    assert found["norm"] > 0
    assert found["difference"] <= 1e-3 * found["norm"]


def test_the_adapter_has_the_logged_loss_in_plain_peft(course: Course) -> None:
    config = course.configs[0]
    base = AutoModelForCausalLM.from_pretrained(config.model.name, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, Path(config.output_dir) / "adapter").eval()
    rows = TokenRows(Path(config.data_dir) / "sample", config.max_length)
    with torch.no_grad():
        loss = float(model(**collate([rows[i] for i in range(len(rows))])).loss)
    assert loss == pytest.approx(min(course.trials[0]["losses"]), rel=1e-3)  # float16
