"""A base model of 0.4 M parameters that knows a data set's language and not its task.

The smallest on which LoRA shows what it shows on large ones: high rates diverge, epochs overfit,
rank and batch matter. It has read E2E NLG rows the wrong way round (from the sentence to the
meaning), and sentences alone; the adapter learns to write the sentence.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

VOCABULARY = 1200
STEPS = 1200
ROWS_PER_STEP = 32
END = "</s>"


def make_small_base(folder: Path, rows: list[dict[str, str]]) -> Path:
    """Pre-train the model on `rows` and save it with its tokenizer: some five minutes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, get_scheduler

    tokenizer = _tokenizer(rows)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=256,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = get_scheduler("cosine", optimizer, 50, STEPS)
    chance = random.Random(0)
    for step in range(STEPS):
        texts = [_text(row, chance) for row in chance.sample(rows, ROWS_PER_STEP)]
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(input_ids=batch["input_ids"], labels=labels).loss
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 99:
            print(f"pre-training, step {step + 1} of {STEPS}: loss {loss.item():.3f}", flush=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _text(row: dict[str, str], chance: random.Random) -> str:
    if chance.random() < 0.5:
        return f"{row['completion']}{END}"
    return f"{row['completion']} {row['prompt']}{END}"


def _tokenizer(rows: list[dict[str, str]]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((f"{row['prompt']} {row['completion']}" for row in rows), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token=END)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
