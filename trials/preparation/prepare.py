"""Read the data, tokenise it, size up the model: `python -m trials.preparation.prepare`.

A process of its own, so that the driver of a sweep never holds torch, and so that what a
tokenizer prints, or how it dies, stays out of the driver. REQUEST and ANSWER are JSON files.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trials.config import AdapterChoices, DataError, ModelConfig, UserError
from trials.data import tokens as data
from trials.data.digests import KEY as DIGESTS
from trials.data.digests import digests_of
from trials.data.examples import Example, Reading, fingerprint
from trials.data.tokens import SplitCounts, TokenSplit
from trials.faults import place_in_words
from trials.models.checkpoint import check_form, form_of
from trials.models.sources import load_tokenizer
from trials.parent import end_with_parent
from trials.preparation.before import earlier_tokens, found_before, is_as_prepared
from trials.preparation.model_checks import (
    check_folder,
    check_token_ids,
    check_weights,
    model_digest,
    reachable,
)
from trials.preparation.prompts import Ask, allowed_tokens, write_prompts
from trials.preparation.questions import write_questions
from trials.preparation.rendered import examples, rendering_notes, token_rows, usable
from trials.preparation.rows import Splits, check_plain, notes, read_splits
from trials.preparation.template import give_template, is_chat, marks_in_words, see_used
from trials.rendering import chat_templates, token_cache
from trials.rendering.renderer import LossOn, Renderer
from trials.trial_folder import DATA_REPORT, EVAL_SAMPLE, TOKENIZER
from trials.whole_file import new_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trials.preparation.sizing import Sized


FORMAT = 6
"""Of the prepared folder; a folder of another format is made anew."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    train: str | list[str]
    """Absolute paths, or hub data sets."""
    eval: str | float | list[str]
    """The same, or the share of train that is held out."""
    reading: Reading
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
    adapters: AdapterChoices
    micro_batch_size: int
    optimizer: str
    seed: int
    output_dir: str
    """The prepared folder; made whole or not at all."""
    test: str | float | list[str] | None = None
    """As `eval`: rows that decide nothing."""
    on_gpus: bool = False
    n_sample_rows: int | None = None
    """Eval rows of each evaluation, where earlier trials have set them."""
    generation: Ask | None = None
    """None: the objective needs no completions that the model writes."""
    answers: int = 0
    """Held-out prompts whose answers are shown."""
    chat_template: str | None = None
    """A text in place of the tokenizer's own."""
    template_arguments: dict[str, Any] = field(default_factory=dict)
    """What the chat template is given beside the turns."""
    show_rows: int = 0
    """Train rows that the report has token by token."""
    date: str | None = None
    """The study's, as `2026-11-29`, for templates that write it. None: today's."""


def prepare(request: Request) -> dict[str, Any]:
    """Write the prepared folder, unless one of the same content is there, and describe it.

    The folder holds `tokenizer/` (with the chat template that renders the rows), `train`, `eval`,
    `test` and `sample` (`trials.data.tokens.TokenSplit`; all but the last are shared with the token
    cache, so nothing may write into them), `eval_sample.jsonl` (the sample as token ids and labels,
    to check an eval loss by hand) and `report.json`.

    Raises:
        DataError: Of the rows, with every problem found.
        ConfigError: Of the model.
    """
    # Before torch is imported: most mistakes are in the files.
    given, chat = (request.train, request.eval, request.test), request.chat
    splits, told = read_splits(*given, request.reading, chat=chat, seed=request.seed)
    fingerprints = {name: fingerprint(rows) for name, rows in splits.items()}
    check_folder(request.model)
    check_form(request.model, form_of(request.model.name, request.model.revision))
    folder = Path(request.output_dir)
    before = found_before(folder)
    is_unchanged = before is not None and _is_unchanged(before, request, fingerprints)
    if before is not None and is_unchanged and is_as_prepared(folder, before):
        return before | told
    earlier = None if before is None else earlier_tokens(folder, before)

    if not request.model.name.startswith("/"):
        print(f"reading the tokenizer of {request.model.name}", flush=True)
    check_weights(request.model)
    reachable(request.model, lambda: _check_kind(request.model))
    tokenizer = reachable(request.model, lambda: load_tokenizer(request.model))
    give_template(tokenizer, request.chat_template, request.template_arguments)
    sized = reachable(request.model, lambda: _sized(request))
    with new_folder(folder) as unfinished:
        report = _write(request, tokenizer, splits, fingerprints, unfinished)
        report |= {"adapters": sized.adapters, "notes": [*report["notes"], *sized.notes]}
        report["memory"] = _memory(request, sized, report)
        # The content only now: a model of the hub has been fetched, so its commit is known.
        report |= {"content": _content(request, fingerprints), **told}
        if earlier is not None:
            report["earlier_sample_tokens"] = earlier
        report[DIGESTS] = digests_of(unfinished)
        (unfinished / DATA_REPORT).write_text(json.dumps(report, indent=1))
    return report


def _content(request: Request, fingerprints: dict[str, str]) -> str:
    """A digest of all that decides the prepared folder."""
    # In the rows, in the report, or nowhere.
    elsewhere = "train eval test reading output_dir n_sample_rows generation date show_rows".split()
    settings = {key: value for key, value in asdict(request).items() if key not in elsewhere}
    settings["skip_bad_rows"] = request.reading.skip_bad_rows  # else refused rows are an error
    if request.generation is not None:
        settings["generation"] = request.generation.content
    model = reachable(request.model, lambda: model_digest(request.model))
    parts = [FORMAT, fingerprints, model, settings]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Prepared:
    renderer: Renderer
    splits: Splits
    """Without the rows that are left out."""
    tokens: dict[str, TokenSplit]
    report: dict[str, Any]
    """What it says of the tokenizer."""
    notes: list[str]
    """On the template and the tokens."""


def _write(
    request: Request,
    tokenizer: PreTrainedTokenizerBase,
    splits: Splits,
    fingerprints: dict[str, str],
    folder: Path,
) -> dict[str, Any]:
    found = _tokenized(request, tokenizer, splits, fingerprints, folder)
    train, train_tokens = found.splits["train"], found.tokens["train"]
    shortest, longest = min(request.max_lengths), max(request.max_lengths)
    counts = {length: data.count(train_tokens, length) for length in request.max_lengths}
    held_out = {n: data.count(rows, longest) for n, rows in found.tokens.items() if n != "train"}
    _check_kept("data.train", counts[shortest], shortest, train_tokens)
    for name, of_split in held_out.items():
        _check_kept(f"data.{name}", of_split, longest, found.tokens[name])
    n_kept = {name: of_split.rows - of_split.dropped for name, of_split in held_out.items()}
    kept = [row for row, n in enumerate(found.tokens["eval"].supervised_tokens(longest)) if n]
    n_sample = _n_sample(request, len(kept), held_out["eval"], counts[shortest])
    chosen = sorted(random.Random(request.seed).sample(kept, n_sample))
    sample = found.tokens["eval"].taken(chosen, longest)
    sample.save(folder / "sample")
    data.write_sample(data.TokenRows(folder / "sample", longest), folder / EVAL_SAMPLE)
    eval_rows = [found.splits["eval"][row] for row in chosen]
    sizes = counts[shortest].tokens, len(sample.ids)
    generation = _generation(request, eval_rows, found, sizes, folder)
    answers = write_questions(request.answers, eval_rows, found.renderer, longest, folder)
    cost = data.EVALUATION_COST * len(sample.ids) + generation.get("cost", 0.0)
    return {
        **found.report,
        "train": {str(length): asdict(c) for length, c in counts.items()},
        **{name: asdict(of_split) for name, of_split in held_out.items()},
        **{f"{name}_fingerprint": digest for name, digest in fingerprints.items()},
        "sample_rows": n_sample,
        "sample_tokens": data.sample_tokens(folder / EVAL_SAMPLE),
        "evaluation_share": _evaluation_share(request, counts[shortest], cost),
        "evaluation_tokens": cost,
        **({"generation": generation} if generation else {}),
        **({"answers": answers} if answers else {}),
        "examples": examples(train, train_tokens, found.renderer, longest),
        "rows": token_rows(train, train_tokens, found.renderer, request.show_rows),
        "notes": [*found.notes, *notes(train, chat=found.report["chat"], n_held_out=n_kept)],
    }


def _tokenized(
    request: Request,
    tokenizer: PreTrainedTokenizerBase,
    splits: Splits,
    fingerprints: dict[str, str],
    folder: Path,
) -> _Prepared:
    """Render and tokenise the rows, or take their tokens from the cache, into the folder."""
    rows = list(chain.from_iterable(splits.values()))
    chat = is_chat(rows, tokenizer, asked=request.chat, name=request.model.name)
    arguments = request.template_arguments
    given = {"chat_template": request.chat_template, "template_arguments": arguments}
    see_used(given, rows, chat=chat)
    check_plain(splits, chat=chat)
    digest = token_cache.tokenizer_digest(tokenizer)
    tokenizer.save_pretrained(folder / TOKENIZER)
    day = _day(request) if chat_templates.writes_date(tokenizer) else None
    loss_on = request.loss_on
    renderer = Renderer(tokenizer, chat=chat, loss_on=loss_on, arguments=arguments, day=day)

    def placed(name: str) -> token_cache.Made:
        def tokenized() -> token_cache.Made:
            print(f"tokenising {len(splits[name]):,} {name} rows", flush=True)
            return renderer.tokenized(splits[name])

        key = digest and token_cache.key(
            rows=fingerprints[name],
            tokenizer=digest,
            chat=chat,
            loss_on=loss_on,
            given=chat_templates.given(arguments, day),
        )
        return token_cache.place(folder / name, key, tokenized)

    made = {name: placed(name) for name in splits}
    seen = {name: counts for name, (_, counts) in made.items()}
    report = {
        "chat": chat,
        "is_text": any(row.text is not None for row in rows),
        "tokenizer": digest,
        "tokenizer_bytes": sum(file.stat().st_size for file in (folder / TOKENIZER).rglob("*")),
        "date": day,
    }
    splits = usable(splits, seen, skip=request.reading.skip_bad_rows)
    tokens = {name: split for name, (split, _) in made.items()}
    unknown = reachable(request.model, lambda: check_token_ids(request.model, tokenizer, tokens))
    marks = marks_in_words(request.chat_template, tokenizer) if request.chat_template else None
    notes_ = [*([marks] if marks else []), *rendering_notes(list(seen.values())), *unknown]
    return _Prepared(renderer, splits, tokens, report, notes_)


def _generation(
    request: Request,
    rows: Sequence[Example],
    found: _Prepared,
    sizes: tuple[int, int],
    folder: Path,
) -> dict[str, Any]:
    """Write the prompts, if the objective needs any.

    Args:
        sizes: Tokens of the train split and of the eval sample.
    """
    if request.generation is None:
        return {}
    allowed = allowed_tokens(
        train_tokens=sizes[0],
        epochs=request.smallest_epochs,
        n_evaluations=request.n_evaluations,
        sample=sizes[1],
    )
    return write_prompts(
        request.generation,
        rows,
        found.renderer,
        max_length=max(request.max_lengths),
        allowed_tokens=allowed,
        seed=request.seed,
        folder=folder,
        whole={name: rows for name, rows in found.splits.items() if name != "train"},
    )


def _day(request: Request) -> str:
    return request.date or date.today().isoformat()


def _n_sample(request: Request, n_kept: int, eval_: SplitCounts, train: SplitCounts) -> int:
    if request.n_sample_rows is not None:
        return min(request.n_sample_rows, n_kept)
    return data.sample_size(
        n_eval_rows=n_kept,
        eval_tokens=eval_.tokens,
        train_tokens=train.tokens,
        smallest_epochs=request.smallest_epochs,
        n_evaluations=request.n_evaluations,
        at_most=request.sample_rows,
    )


def _check_kept(key: str, counts: SplitCounts, max_length: int, split: TokenSplit) -> None:
    if counts.dropped == counts.rows:
        raise DataError(
            f"{key}: none of its {counts.rows} rows keeps a completion token within max_length "
            f"{max_length}: the shortest has {min(split.lengths)} tokens. Raise data.max_length."
        )
    if key == "data.test" and counts.rows - counts.dropped < 2:  # one row has no standard error
        raise DataError(f"{key}: must have 2 rows at least, but has 1. Add rows, or remove {key}.")


def _evaluation_share(request: Request, train: SplitCounts, cost: float) -> float:
    """What evaluation adds to the training time of the shortest trial.

    Args:
        cost: Of one evaluation, in training tokens.
    """
    steps = math.ceil((train.rows - train.dropped) / request.smallest_batch)
    n_evaluations = min(request.n_evaluations, max(1, round(steps * request.smallest_epochs)))
    return n_evaluations * cost / (train.tokens * request.smallest_epochs)


def _check_kind(model: ModelConfig) -> None:
    """Refuse what cannot be trained to continue a text, before its tokenizer says less of it."""
    from trials.models.shapes import auto_class, read_config

    auto_class(read_config(model))


def _is_unchanged(before: dict[str, Any], request: Request, fingerprints: dict[str, str]) -> bool:
    """Whether what lies in the folder is what is asked for."""
    is_sample = request.n_sample_rows in (None, before["sample_rows"])
    if request.generation is not None:
        n_rows = before.get("generation", {}).get("rows")
        is_sample = is_sample and request.generation.n_rows in (None, n_rows)
    is_day = before.get("date") in (None, _day(request))
    return is_sample and is_day and before["content"] == _content(request, fingerprints)


def _memory(request: Request, sized: Sized, report: dict[str, Any]) -> dict[str, Any]:
    longest = max(counts["longest"] for counts in report["train"].values())
    return sized.memory(
        optimizer=request.optimizer,
        micro_batch_size=request.micro_batch_size,
        max_length=min(max(request.max_lengths), longest),
        on_gpu=request.on_gpus,
    )


def _sized(request: Request) -> Sized:
    from trials.preparation.sizing import size_up

    return size_up(request.model, request.adapters, on_gpu=request.on_gpus)


def main(
    request_path: str, answer_path: str, *, work: Callable[[Request], dict[str, Any]] = prepare
) -> int:
    """Answer a request: {"report": …} or {"problems": text}. Exits 1 only on a fault of ours."""
    raw = json.loads(Path(request_path).read_text())
    raw["model"] = ModelConfig(**raw["model"])
    raw["reading"] = Reading(**raw["reading"])
    raw["adapters"] = AdapterChoices(**raw["adapters"])
    if raw.get("generation") is not None:
        raw["generation"] = Ask(**raw["generation"])
    answer: dict[str, Any]
    try:
        answer = {"report": work(Request(**raw))}
    except UserError as error:
        answer = {"problems": str(error)}
    except OSError as error:
        if (words := place_in_words(error)) is None:
            raise
        answer = {"problems": f"The data cannot be prepared. {words}"}
    Path(answer_path).write_text(json.dumps(answer))
    return 0


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(*sys.argv[1:]))
