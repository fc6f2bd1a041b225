"""One trial on two processes gives the numbers of one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from tests import tiny
from trials.backends.loading import load
from trials.config import EvalPoint, ModelConfig, Objective, TrialConfig
from trials.distributed.processes import Processes
from trials.faults import KILLED
from trials.memory.micro_batches import MicroBatchMemory
from trials.preparation.prompts import Ask
from trials.training.train import run_trial

MakeConfig = Callable[..., TrialConfig]
ROOT = Path(__file__).parents[3]


def alone(config: TrialConfig) -> list[EvalPoint]:
    points: list[EvalPoint] = []
    Path(config.output_dir).mkdir(parents=True)
    run_trial(config, load(config.model), MicroBatchMemory(), points.append)
    return points


def together(folder: Path, *configs: TrialConfig) -> tuple[list[list[EvalPoint]], str]:
    """Run trials in a worker of two processes; returns their points, and what was printed."""
    request = folder / "request.json"
    request.write_text(json.dumps([asdict(config) for config in configs]))
    answer = folder / "answer.json"
    done = subprocess.run(
        [sys.executable, __file__, str(request), str(answer)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.exists(), done.stderr
    trials = json.loads(answer.read_text())
    log = "".join((Path(c.output_dir) / "log.txt").read_text() for c in configs)
    return [[EvalPoint(**point) for point in points] for points in trials], log


def losses(points: list[EvalPoint]) -> list[float]:
    return [x for p in points for x in (p.train_loss, p.eval_loss, p.grad_norm) if x is not None]


@pytest.fixture
def exact(config: MakeConfig) -> MakeConfig:
    def make(number: int, **changes: object) -> TrialConfig:
        model = replace(config().model, compute_dtype="float32")
        # 48 rows in batches of 36: in the last batch of an epoch each process has 6 rows.
        return config(
            number, model=model, effective_batch_size=36, evaluate_base=True, epochs=3, **changes
        )

    return make


def test_two_processes_give_the_losses_of_one_and_stay_for_the_next_trial(
    exact: MakeConfig, tmp_path: Path
) -> None:
    first, second = exact(1, micro_batch_size=6), exact(2, micro_batch_size=6, rank=4, alpha=4.0)
    (one, two), _ = together(
        tmp_path, replace(first, gpus_per_trial=2), replace(second, gpus_per_trial=2)
    )
    assert losses(one) == pytest.approx(losses(alone(replace(first, number=3,
        output_dir=str(tmp_path / "3")))), rel=1e-5)  # fmt: skip
    assert losses(two) == pytest.approx(losses(alone(replace(second, number=4,
        output_dir=str(tmp_path / "4")))), rel=1e-5)  # fmt: skip


def test_the_first_sum_is_made_at_the_start() -> None:
    """NCCL takes its memory then; later torch's cache may hold it all."""
    Processes(0, 1, dist.HashStore())  # type: ignore[attr-defined]
    try:
        group: Any = dist.distributed_c10d._get_default_group()
        assert group._get_sequence_number_for_group() == 1
    finally:
        dist.destroy_process_group()


SHORT_OF_MEMORY = """
import sys

if "trials.peer" in sys.orig_argv:  # the other process, not the worker's own
    import torch
    from trials.backends.transformers_qlora import TransformersBase

    nll_sum = TransformersBase.nll_sum

    def limited(self, model, batch):
        if model.training and len(batch["input_ids"]) > 9:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return nll_sum(self, model, batch)

    TransformersBase.nll_sum = limited
"""
"""Python imports a module of the name sitecustomize as it starts."""


@pytest.mark.long
def test_memory_that_runs_out_in_one_process_makes_the_micro_batch_smaller_in_both(
    exact: MakeConfig, tmp_path: Path
) -> None:
    trial = exact(1, micro_batch_size=18)
    (tmp_path / "sitecustomize.py").write_text(SHORT_OF_MEMORY)
    (points,), log = together(tmp_path, replace(trial, gpus_per_trial=2))
    assert re.search(r"out of memory: Attempt\(tokens=\d+, gradient_checkpointing=False\)", log)
    undisturbed = alone(replace(trial, number=2, output_dir=str(tmp_path / "2")))
    assert losses(points) == pytest.approx(losses(undisturbed), rel=1e-5)


@pytest.mark.parametrize(
    ("death", "words", "fault"),
    [
        ("1 / 0", "a process of this trial ended with exit code 1: ZeroDivision", None),
        ("import os; os.kill(os.getpid(), 9)", f"{KILLED} 9", "machine_lost"),
    ],
)
def test_a_process_that_dies_is_the_trials_cause_and_one_that_is_killed_is_not_its_fault(
    exact: MakeConfig, tmp_path: Path, death: str, words: str, fault: str | None
) -> None:
    died = SHORT_OF_MEMORY.replace('raise torch.OutOfMemoryError("CUDA out of memory.")', death)
    (tmp_path / "sitecustomize.py").write_text(died)
    trial = exact(1, micro_batch_size=18, gpus_per_trial=2)
    with pytest.raises(AssertionError, match=f"(?s)PeerDied: {words}.*, fault={fault!r}"):
        together(tmp_path, trial)
    assert words in (Path(trial.output_dir) / "log.txt").read_text()


@pytest.mark.long
def test_two_processes_write_the_prompts_of_one(
    exact: MakeConfig, tiny_base: Path, tmp_path: Path
) -> None:
    ask = Ask(rows=33, max_new_tokens=None, n_rows=None, file=None)
    data = tiny.prepared_data(tiny_base, tmp_path, n_train=48, n_eval=64, generation=ask)
    objective = Objective(name="rouge_l", direction="maximize")
    both = {"data_dir": str(data), "objective": objective, "micro_batch_size": 6}
    (points,), _ = together(tmp_path, exact(1, gpus_per_trial=2, **both))
    expected = alone(exact(2, **both))
    assert [p.score for p in points] == pytest.approx([p.score for p in expected], abs=0.02)
    assert all(p.score is not None and 0.2 < p.score < 1 for p in points)


def main(request_path: str, answer_path: str) -> None:
    """Run by `together`: the worker's own process."""
    from trials.messages import Ended, Loaded, Reported
    from trials.worker import TrialThread

    trials = json.loads(Path(request_path).read_text())
    configs = [
        TrialConfig(
            **{**t, "model": ModelConfig(**t["model"]), "objective": Objective(**t["objective"])}
        )
        for t in trials
    ]
    worker = TrialThread(configs[0].model, n_processes=2)
    assert isinstance(event := worker.events.get(), Loaded), event
    curves: list[list[Any]] = []
    for config in configs:
        worker.start(config.number, config)
        curves.append([])
        while not isinstance(event := worker.events.get(), Ended):
            if isinstance(event, Reported):
                curves[-1].append(asdict(event.point))
                worker.answer(None)
        assert event.result.outcome == "completed", event.result
    Path(answer_path).write_text(json.dumps(curves))
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
