"""The same rows and settings with TRL's SFTTrainer, for the pace and the idle share beside ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.gpu.script.bench import Bench
from tests.gpu.script.found import Missing, needs, said
from tests.gpu.script.llama import DEEP, WIDE, folder_of, longest_row
from tests.gpu.script.speed import (
    EFFECTIVE_BATCH_SIZE,
    MICRO_BATCH_SIZE,
    Watch,
    tokens_of_a_step,
    watched_steps,
    write_timed_rows,
)


def trl(bench: Bench) -> None:
    """Its micro-batches are as they come, padded; gradient checkpointing is off, as with us."""
    needs("trl", "datasets", "bitsandbytes")
    data = write_timed_rows(bench)
    for name, ours in ((WIDE, "speed-8b"), (DEEP, "speed-smollm2")):
        folder = folder_of(bench, name)
        if not folder.exists():
            raise Missing(f"{folder} was not made")
        watch = Watch(bench.has_gpu, *watched_steps(bench))
        train(bench, folder, data, watch)
        watch.tell(bench, name, data)
        pace = said(bench.folder, ours).figures.get("adamw, tokens/s")
        if pace is not None:
            own = tokens_of_a_step(data) / EFFECTIVE_BATCH_SIZE
            bench.found.note(f"{name}: ours {pace} tokens/s, of rows of {own:.0f} tokens")


def train(bench: Bench, folder: Path, data: Path, watch: Watch) -> None:
    """Train an adapter on all linear layers of the model in 4 bits."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from tests.benchmarks.trial import PlainLogProbs
    from trials.data.tokens import TokenRows

    rows = TokenRows(data / "train", longest_row(bench))
    if not bench.has_gpu:  # TRL's Triton kernel
        patch("trl.trainer.utils._ChunkedLogProbFunction", PlainLogProbs).start()

    class Steps(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.after_step()

    torch.manual_seed(0)
    trainer = SFTTrainer(
        model=quantised(folder, bench.has_gpu),
        processing_class=AutoTokenizer.from_pretrained(folder),
        train_dataset=Dataset.from_list(
            [{"input_ids": rows[index]["input_ids"].tolist()} for index in range(len(rows))]
        ),
        peft_config=LoraConfig(
            r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        args=SFTConfig(
            output_dir=str(bench.work / folder.name),
            per_device_train_batch_size=MICRO_BATCH_SIZE,
            gradient_accumulation_steps=EFFECTIVE_BATCH_SIZE // MICRO_BATCH_SIZE,
            max_length=longest_row(bench),
            num_train_epochs=1,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            gradient_checkpointing=False,
            bf16=True,
            use_cpu=not bench.has_gpu,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=0,
        ),
    )
    trainer.add_callback(Steps())
    trainer.train()


def quantised(folder: Path, on_gpu: bool) -> Any:
    """Load the model in 4 bits as TRL's guide does."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.bfloat16,
        device_map={"": 0 if on_gpu else "cpu"},
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
    )
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # a kernel without a backward pass
            module.support_avx512bf16_for_cpu = False
    return model
