"""TRL's SFTTrainer under Ray Tune with Optuna, ASHA and MLflow, as their guides write it.

Run by `tests.benchmarks.against_ray_tune` in a process of its own. Only what stands under
"measured" below is not of the guides; it costs some microseconds a report.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ray
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

N_EVALUATIONS = 20


def train(config: dict[str, Any]) -> None:
    """Train one adapter, report its eval loss some 20 times: what Tune calls a trainable."""
    entered_at = time.time()
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from tests.benchmarks.trial import PlainLogProbs

    imported_at = time.time()
    # TRL's fused loss is a Triton kernel, for GPUs only.
    patch("trl.trainer.utils._ChunkedLogProbFunction", PlainLogProbs).start()

    class ReportToTune(TrainerCallback):  # type: ignore[misc]
        def on_evaluate(self, *_: Any, metrics: dict[str, float], **__: Any) -> None:
            tune.report({**metrics, "entered_at": entered_at, "imported_at": imported_at,
                         "ready_at": ready_at})  # fmt: skip

    rows = load_dataset("json", data_files={split: config[split] for split in ("train", "eval")})
    model = AutoModelForCausalLM.from_pretrained(config["base_model"], dtype="float32")
    trainer = SFTTrainer(
        model=model,
        processing_class=AutoTokenizer.from_pretrained(config["base_model"]),
        train_dataset=rows["train"],
        eval_dataset=rows["eval"],
        peft_config=LoraConfig(
            r=config["rank"],
            lora_alpha=2 * config["rank"],
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
        args=SFTConfig(
            output_dir="output",
            per_device_train_batch_size=config["micro_batch_size"],
            gradient_accumulation_steps=config["batch"] // config["micro_batch_size"],
            # All rows in one batch: a mean of batch means would not be the mean over tokens.
            per_device_eval_batch_size=len(rows["eval"]),
            eval_strategy="steps",
            eval_steps=1 / N_EVALUATIONS,
            num_train_epochs=config["epochs"],
            learning_rate=config["learning_rate"],
            lr_scheduler_type="cosine",
            warmup_steps=0.03,  # a share of them
            max_length=256,
            completion_only_loss=True,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=config["seed"],
        ),
        callbacks=[ReportToTune()],
    )
    ready_at = time.time()
    trainer.train()


def search(asked: argparse.Namespace) -> None:
    """Run the whole search on two processors."""
    ray.init(num_cpus=2, include_dashboard=False)
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={
            "rank": tune.choice([2, 8, 32]),
            "learning_rate": tune.loguniform(*asked.learning_rate),
            "epochs": tune.choice([1, 3, 8]),
            "batch": tune.choice([8, 16, 32]),
            "base_model": asked.base_model,
            "train": str(asked.work / "train.jsonl"),
            "eval": str(asked.work / "eval.jsonl"),
            "micro_batch_size": 8,
            "seed": asked.seed,
        },
        tune_config=tune.TuneConfig(
            metric="eval_loss",
            mode="min",
            search_alg=OptunaSearch(seed=asked.seed),
            scheduler=ASHAScheduler(max_t=N_EVALUATIONS, grace_period=1, reduction_factor=4),
            num_samples=asked.trials,
            max_concurrent_trials=2,
            reuse_actors=asked.reuse_actors,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(asked.output),
            callbacks=[
                MLflowLoggerCallback(
                    tracking_uri=f"sqlite:///{asked.output}/mlflow.db", experiment_name="tune"
                ),
                Stamps(asked.output / "events.jsonl"),
            ],
        ),
    )
    found = tuner.fit()
    if found.num_errors:
        raise SystemExit(f"{found.num_errors} trials failed: {found.errors[0]}")


class Stamps(tune.Callback):  # type: ignore[misc]
    """Measured: writes when trials begin, report and end, as `sweep run --json` does."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _write(self, event: str, trial: Any, **values: Any) -> None:
        line = {"event": event, "time": time.time(), "trial": trial.trial_id, **values}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Its process is asked for."""
        self._write("trial_started", trial, config=trial.config)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        """It has evaluated."""
        kept = ("eval_loss", "eval_runtime", "entered_at", "imported_at", "ready_at", "epoch")
        self._write("trial_reported", trial, **{key: result[key] for key in kept if key in result})

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """It has run to its end, or was stopped."""
        self._write("trial_ended", trial)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="train.jsonl, eval.jsonl")
    parser.add_argument("--output", type=Path, required=True, help="an empty folder")
    parser.add_argument("--base-model", required=True, help="its folder")
    parser.add_argument("--learning-rate", type=float, nargs=2, required=True)
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--reuse-actors", action="store_true")
    search(parser.parse_args())


if __name__ == "__main__":
    main()
