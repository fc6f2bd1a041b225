"""`python -m trials.prepare REQUEST ANSWER`: read the data, tokenise it, size up the model.

A process of its own, so that the driver of a sweep never holds torch, and so that what a
tokenizer prints, or how it dies, stays out of the driver. REQUEST and ANSWER are JSON files.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trials.config import ConfigError, DataError, ModelConfig
from trials.rows import Example, fingerprint, read_examples, shared_rows, split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trials.data import LossOn, TokenRow

FORMAT = 2
"""Of the prepared folder; a folder of another format is made anew."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What to prepare."""

    train: str
    """Absolute path, or a hub data set."""
    eval: str | float
    """The same, or the share of train that is held out."""
    columns: dict[str, str]
    template: str | None
    chat: bool | None
    loss_on: LossOn
    model: ModelConfig
    max_lengths: list[int]
    """Every max_length that trials may have."""
    n_evaluations: int
    sample_rows: int
    """At most so many eval rows are read at each evaluation."""
    smallest_epochs: float
    smallest_batch: int
    """The smallest effective batch: the most optimizer steps in an epoch."""
    largest_rank: int
    target_modules: str
    micro_batch_size: int
    optimizer: str
    seed: int
    output_dir: str
    """The prepared folder; made whole or not at all."""


def prepare(request: Request) -> dict[str, Any]:
    """Write the prepared folder, unless one of the same content is there, and describe it.

    The folder holds `train` and `sample` (see `trials.data.TokenRows`), `eval_sample.jsonl` (the
    sample as token ids and labels, for anyone to check an eval loss by hand) and `report.json`.

    Raises:
        DataError: Of the rows, with every problem found.
        ConfigError: Of the model.
    """
    train, eval_ = _read(request)  # before torch is imported: most mistakes are in the files
    folder = Path(request.output_dir)
    content = _content(request, train, eval_)
    done = folder / "report.json"
    if done.exists():
        report: dict[str, Any] = json.loads(done.read_text())
        if report["content"] == content:
            return report

    from trials.base_model import load_tokenizer

    if not request.model.name.startswith("/"):
        print(f"reading the tokenizer of {request.model.name}", flush=True)
    tokenizer = _reachable(request.model, lambda: load_tokenizer(request.model))
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    unfinished.mkdir(parents=True)
    try:
        report = _write(request, tokenizer, train, eval_, unfinished)
        longest = max(counts["longest"] for counts in report["train"].values())
        memory = _reachable(request.model, lambda: _memory(request, longest))
        report |= {"content": content, "memory": memory}
        (unfinished / "report.json").write_text(json.dumps(report, indent=1))
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return report


def _read(request: Request) -> tuple[list[Example], list[Example]]:
    problems: list[str] = []

    def examples(source: str, key: str) -> list[Example]:
        try:
            return read_examples(
                source, key=key, columns=request.columns, template=request.template
            )
        except DataError as error:
            problems.append(str(error))
            return []

    train = examples(request.train, "data.train")
    eval_ = [] if isinstance(request.eval, float) else examples(request.eval, "data.eval")
    if request.chat and any(rows and rows[0].text is not None for rows in (train, eval_)):
        problems.append(
            "data.chat: true needs rows with prompt and completion, found rows of one text each. "
            "Remove data.chat."
        )
    if problems:
        raise DataError("\n".join(problems))
    if isinstance(request.eval, float):
        return split(train, request.eval, request.seed)
    if both := shared_rows(train, eval_):
        shown = "\n".join(f"  {in_eval} equals {in_train}" for in_train, in_eval in both[:5])
        more = f"\n  and {len(both) - 5} more" if len(both) > 5 else ""
        raise DataError(
            f"data.eval: {len(both)} of its {len(eval_)} rows are also train rows, so the eval "
            f"loss would reward learning them by heart.\n{shown}{more}\n"
            f"  Remove them from one of the files, or write `eval: 0.1`: a split by us keeps equal "
            f"rows together."
        )
    return train, eval_


def _content(request: Request, train: Sequence[Example], eval_: Sequence[Example]) -> str:
    """A digest of all that decides the prepared folder."""
    elsewhere = ("train", "eval", "columns", "template", "output_dir")  # in the rows, or nowhere
    settings = {key: value for key, value in asdict(request).items() if key not in elsewhere}
    parts = [FORMAT, fingerprint(train), fingerprint(eval_), settings]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _reachable(model: ModelConfig, load: Any) -> Any:
    """Run `load`; say in words that the model cannot be had."""
    try:
        return load()
    except (OSError, ValueError, ImportError) as error:
        if isinstance(error, ConfigError):
            raise
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        is_offline = os.environ.get("HF_HUB_OFFLINE") == "1" and not Path(model.name).is_dir()
        offline = " HF_HUB_OFFLINE is set: unset it to reach the hub." if is_offline else ""
        raise ConfigError(
            f"base_model: {model.name} cannot be read: {first_line.rstrip('.: ')}.{offline} "
            f"Give a hub id that this machine reaches, a local folder with config.json, "
            f"tokenizer and safetensors, or the built-in smollm2-135m."
        ) from None


def _write(
    request: Request,
    tokenizer: PreTrainedTokenizerBase,
    train: Sequence[Example],
    eval_: Sequence[Example],
    folder: Path,
) -> dict[str, Any]:
    from trials import data

    chat = request.chat
    if chat is None:
        chat = bool(tokenizer.chat_template)
    if (chat or train[0].messages) and not tokenizer.chat_template:
        raise ConfigError(
            f"data.chat: the tokenizer of {request.model.name} has no chat template. Choose an "
            f"instruct model, or give rows with prompt and completion and set data.chat to false."
        )
    longest = max(request.max_lengths)

    def in_chat(example: Example) -> bool:  # a plain text never is
        return example.messages is not None or (bool(chat) and example.text is None)

    def tokens(examples: Sequence[Example], what: str) -> list[TokenRow]:
        print(f"tokenising {len(examples):,} {what} rows", flush=True)
        return [
            data.tokenize(
                data.render(e, tokenizer, chat=in_chat(e), loss_on=request.loss_on),
                tokenizer,
                chat=in_chat(e),
            )
            for e in examples
        ]

    train_rows, eval_rows = tokens(train, "train"), tokens(eval_, "eval")
    counts = {length: data.count(train_rows, length) for length in request.max_lengths}
    eval_counts = data.count(eval_rows, longest)
    for key, rows, what in [
        ("data.train", train_rows, counts[min(request.max_lengths)]),
        ("data.eval", eval_rows, eval_counts),
    ]:
        if what.dropped == what.rows:
            raise DataError(
                f"{key}: not one of its {what.rows} rows keeps a completion token within "
                f"max_length {min(request.max_lengths) if rows is train_rows else longest}: "
                f"the shortest has {min(len(r.input_ids) for r in rows)} tokens. "
                f"Raise data.max_length."
            )
    kept = [row for row in eval_rows if data.has_loss(row, longest)]
    shortest_train = counts[min(request.max_lengths)]
    n_sample = data.sample_size(
        n_eval_rows=len(kept),
        eval_tokens=eval_counts.tokens,
        train_tokens=shortest_train.tokens,
        smallest_epochs=request.smallest_epochs,
        n_evaluations=request.n_evaluations,
        at_most=request.sample_rows,
    )
    chosen = sorted(random.Random(request.seed).sample(range(len(kept)), n_sample))
    sample = [
        data.TokenRow(kept[i].input_ids[:longest], kept[i].supervised[:longest]) for i in chosen
    ]
    data.write_rows(train_rows, folder / "train")
    data.write_rows(sample, folder / "sample")
    data.write_sample(data.TokenRows(folder / "sample", longest), folder / "eval_sample.jsonl")
    sample_tokens = sum(len(row.input_ids) for row in sample)
    steps = math.ceil((shortest_train.rows - shortest_train.dropped) / request.smallest_batch)
    n_evaluations = min(request.n_evaluations, max(1, round(steps * request.smallest_epochs)))
    evaluation_share = (
        data.EVALUATION_COST
        * n_evaluations
        * sample_tokens
        / (shortest_train.tokens * request.smallest_epochs)
    )
    example = data.render(train[0], tokenizer, chat=in_chat(train[0]), loss_on=request.loss_on)
    return {
        "chat": bool(chat),
        "train": {str(length): asdict(c) for length, c in counts.items()},
        "eval": asdict(eval_counts),
        "train_fingerprint": fingerprint(train),
        "eval_fingerprint": fingerprint(eval_),
        "sample_rows": n_sample,
        "evaluation_share": evaluation_share,
        "example": [[segment.text, segment.supervised] for segment in example],
    }


def _memory(request: Request, longest_row: int) -> dict[str, float]:
    from trials.memory import estimate

    return estimate(
        request.model,
        rank=request.largest_rank,
        target_modules=request.target_modules,
        optimizer=request.optimizer,
        micro_batch_size=request.micro_batch_size,
        max_length=min(max(request.max_lengths), longest_row),
    )


def main(request_path: str, answer_path: str) -> int:
    """Answer a request: {"report": …} or {"problems": text}. Exits 1 only on a fault of ours."""
    raw = json.loads(Path(request_path).read_text())
    raw["model"] = ModelConfig(**raw["model"])
    answer: dict[str, Any]
    try:
        answer = {"report": prepare(Request(**raw))}
    except (DataError, ConfigError) as error:
        answer = {"problems": str(error)}
    Path(answer_path).write_text(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
