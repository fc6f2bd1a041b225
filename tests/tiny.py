"""A base model of 0.2 M parameters, its tokenizer and its rows: real, and trained in seconds.

LoRA on a random base does not overfit, so the base is pre-trained on other rows of the same kind.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trials.config import AdapterChoices, ModelConfig, TrialConfig, short_trial
from trials.data.examples import Reading
from trials.preparation.prepare import Request, prepare
from trials.preparation.prompts import Ask

if TYPE_CHECKING:
    from trials.backends.transformers_qlora import TransformersBase
    from trials.data.tokens import TokenRows
    from trials.models.frozen_base import FrozenBase

ADAPTERS = AdapterChoices(
    target_modules=["all-linear"], experts=[False], use_dora=False, largest_rank=8
)
PLACES = "oslo bergen lund turku riga tartu gdansk bremen ghent lille cork galway hull".split()
SKIES = "rain snow sun fog hail cloud".split()
WINDS = "calm light fresh strong wild".split()
WORDS = (
    "today tonight here now again there over in the of a and with is it was we see have got "
    "expect very quite rather some much little more less old new town city harbour streets roofs "
    "people children sailors farmers stay walk wait sing home inside outside under near"
).split()


def rows(n: int, seed: int) -> list[dict[str, str]]:
    """Rows whose completion repeats the prompt's facts among words that nothing tells."""
    chance = random.Random(seed)
    made: dict[str, dict[str, str]] = {}
    while len(made) < n:
        place, sky, wind = (chance.choice(words) for words in (PLACES, SKIES, WINDS))
        free = [chance.choice(WORDS) for _ in range(8)]
        completion = " ".join([*free[:3], place, *free[3:5], sky, "and", wind, *free[5:]])
        made[completion] = {"prompt": f"{place} {sky} {wind} :", "completion": f" {completion}"}
    return list(made.values())


def write_rows(path: Path, n: int, seed: int) -> Path:
    """Write `n` rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(n, seed)))
    return path


def make_base(folder: Path) -> Path:
    """Pre-train the tiny base model and save it with its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True,
        )
    )
    texts = [row["prompt"] + row["completion"] + "</s>" for row in rows(2000, seed=1)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    chance = random.Random(0)
    for _ in range(250):
        batch = tokenizer(chance.sample(texts, 32), return_tensors="pt", padding=True)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(input_ids=batch["input_ids"], labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tokenizer() -> Any:
    """One token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = ["<pad>", "<unk>", "</s>", ":", *sorted({*PLACES, *SKIES, *WINDS, *WORDS})]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    )


def model_config(base: Path) -> ModelConfig:
    """The tiny model in 4 bits."""
    return ModelConfig(
        name=str(base),
        revision=None,
        quantization="nf4",
        compute_dtype="auto",
        backend="transformers",
        max_length=64,
        trust_remote_code=False,
    )


def trial_config(base: Path, data: Path, output_dir: Path, **changes: Any) -> TrialConfig:
    """A trial on the tiny model; name what should differ."""
    settings: dict[str, Any] = {
        "data_dir": str(data),
        "output_dir": str(output_dir),
        "epochs": 2,
        "effective_batch_size": 8,
        "micro_batch_size": 8,
        "eval_batch_size": 8,
        "warmup_ratio": 0.03,
        "lr_scheduler": "cosine",
        "n_evaluations": 4,
        "checkpoint_minutes": 10.0,
        "stall_minutes": 10.0,
    }
    model = changes.pop("model", model_config(base))
    return short_trial(model, **settings | changes)


def transformers_base(model: ModelConfig) -> TransformersBase:
    """Load a base model that transformers trains, for tests of what it alone has."""
    from trials.backends.loading import load
    from trials.backends.transformers_qlora import TransformersBase

    base = load(model)
    assert isinstance(base, TransformersBase)
    return base


def eval_loss(base: FrozenBase, model: Any, rows: TokenRows, batch_size: int) -> float:
    """The loss alone, measured in one process."""
    from trials.distributed.group import ALONE
    from trials.evaluation.evaluate import measure

    return measure(base, model, rows, batch_size, ALONE).loss


def request(base: Path, output_dir: Path, **asked: Any) -> Request:
    """What the preparation is asked for the tiny model, unless `asked` otherwise."""
    usual: dict[str, Any] = {
        "reading": Reading(),
        "chat": None,
        "loss_on": "completion",
        "model": model_config(base),
        "max_lengths": [64],
        "n_evaluations": 4,
        "sample_rows": 256,
        "smallest_epochs": 1.0,
        "smallest_batch": 8,
        "adapters": ADAPTERS,
        "micro_batch_size": 8,
        "optimizer": "adamw",
        "seed": 0,
        "output_dir": str(output_dir),
    }
    return Request(**usual | asked)


def prepared_data(
    base: Path, folder: Path, *, n_train: int, n_eval: int, generation: Ask | None = None
) -> Path:
    """Write and prepare a data set for the tiny model; returns the prepared folder."""
    train = str(write_rows(folder / "train.jsonl", n_train, seed=2))
    eval_ = str(write_rows(folder / "eval.jsonl", n_eval, seed=3))
    prepare(
        request(
            base,
            folder / "prepared",
            train=train,
            eval=eval_,
            sample_rows=n_eval,
            smallest_epochs=100,
            generation=generation,
        )
    )
    return folder / "prepared"
