"""Data files that nobody should write, made out of good ones."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import tiny
from tests.faults.mutants import BYTE_MUTATIONS, Content, put

Rows = list[Any]
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if loop.index0 and m.role == messages[loop.index0 - 1].role %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<{{ m.role }}> {{ m.content }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
"""As strict as Llama's or Gemma's."""


def make_base(folder: Path) -> Path:
    """Write a model of a few weights, untrained, with a tokenizer and a chat template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny.make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


@dataclass(frozen=True, slots=True)
class DataFile:
    """One case: a mutated file of training rows, or of eval rows."""

    case: str
    folder: Path
    name: str
    content: Content
    data: Mapping[str, Any] = field(default_factory=dict)
    """What `data` of the space says more."""
    is_eval: bool = False

    def sources(self) -> tuple[str, str | float]:
        """Write the files; where train and eval are."""
        self.folder.mkdir(parents=True, exist_ok=True)
        mutant = str(put(self.folder / self.name, self.content))
        if not self.is_eval:
            return mutant, 0.3
        good = self.folder / "good.jsonl"
        good.write_text("".join(f"{json.dumps(row)}\n" for row in tiny.rows(6, seed=9)))
        return str(good), mutant

    def write_space(self, base: Path) -> Path:
        """Write a space that reads it."""
        train, eval_ = self.sources()
        space = {
            "base_model": str(base),
            "data": {"train": train, "eval": eval_, "max_length": 64, **self.data},
            "search": {"rank": [8]},
        }
        path = self.folder / "space.yaml"
        path.write_text(json.dumps(space))
        return path


def prepared(file: DataFile, base: Path) -> None:
    """Do what `python -m trials.preparation.prepare` does."""
    from trials.data.examples import Reading
    from trials.preparation.prepare import Request, prepare

    train, eval_ = file.sources()
    prepare(
        Request(
            train=train,
            eval=eval_,
            reading=Reading(
                columns=file.data.get("columns", {}), template=file.data.get("template")
            ),
            chat=file.data.get("chat"),
            loss_on=file.data.get("loss_on", "completion"),
            model=tiny.model_config(base),
            max_lengths=[64],
            n_evaluations=4,
            sample_rows=16,
            smallest_epochs=1.0,
            smallest_batch=8,
            adapters=tiny.ADAPTERS,
            micro_batch_size=8,
            optimizer="adamw",
            seed=0,
            output_dir=str(file.folder / "prepared"),
        )
    )


def _pairs() -> Rows:
    return list(tiny.rows(8, seed=2))


def _conversations() -> Rows:
    return [
        {
            "messages": [
                {"role": "system", "content": "here"},
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["completion"]},
            ]
        }
        for row in tiny.rows(8, seed=2)
    ]


def _instructions() -> Rows:
    return [
        {"instruction": row["prompt"], "input": "here", "output": row["completion"]}
        for row in tiny.rows(8, seed=2)
    ]


def _texts() -> Rows:
    return [{"text": row["prompt"] + row["completion"]} for row in tiny.rows(8, seed=2)]


def _json_lines(rows: Rows) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def _separated(rows: Rows, separator: str) -> bytes:
    flat = [row for row in rows if isinstance(row, dict)]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=separator)
    writer.writerow(columns)
    writer.writerows([row.get(name, "") for name in columns] for row in flat)
    return stream.getvalue().encode(errors="surrogatepass")


def parquet(table: Any) -> bytes:
    """The bytes of an Arrow table as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def _parquet_rows(rows: Rows) -> bytes:
    import pyarrow as pa

    return parquet(pa.Table.from_pylist([row for row in rows if isinstance(row, dict)]))


WRITERS: Mapping[str, Callable[[Rows], bytes]] = {
    "jsonl": _json_lines,
    "json": lambda rows: json.dumps(rows).encode(),
    "csv": lambda rows: _separated(rows, ","),
    "tsv": lambda rows: _separated(rows, "\t"),
    "parquet": _parquet_rows,
    "jsonl.gz": lambda rows: gzip.compress(_json_lines(rows), mtime=0),
}
ROWS = {"pairs": _pairs, "messages": _conversations, "instruction": _instructions, "text": _texts}

ODD_VALUES: Sequence[Any] = (
    None,
    True,
    0,
    -1.5,
    10**400,
    float("nan"),
    float("inf"),
    "",
    " \t",
    "\0",
    "\ud800",
    "\u2028",
    "🙂",
    "\x1b[31m",
    "{title.__class__}",
    "{{ ''.__class__.__mro__ }}",
    "[/red]",
    "x " * 20_000,
    "x" * 200_000,
    [],
    {},
    [[]],
    ["a", 3],
    {"role": "user"},
    [{"role": "assistant", "content": "a"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}],
    [{"role": role, "content": "a"} for role in ("user", "user", "assistant")],
    [{"role": ["user"], "content": "a"}],
    [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}],
    [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}],
    [None],
    "</s>",
)
ODD_NAMES = ("", " ", "prompt ", "Prompt", "\ufeffprompt", "\ud800", "a" * 5000, "a\nb", "messages")


def rows_changed(rows: Rows, chance: random.Random) -> Rows:
    """Change one to three rows."""
    for _ in range(chance.choice((1, 2, 3))):
        at = chance.randrange(len(rows))
        row = rows[at] if isinstance(rows[at], dict) else {}
        key = chance.choice([*row, "text"])
        odd, name = chance.choice(ODD_VALUES), chance.choice(ODD_NAMES)
        match chance.randrange(8):
            case 0 | 1 | 2:
                rows[at] = {**row, key: odd}
            case 3:
                rows[at] = {other: value for other, value in row.items() if other != key}
            case 4:
                rows[at] = {**row, name: odd}
            case 5:
                rows[at] = chance.choice([{}, [], None, 3, "x", [row], odd])
            case 6:
                rows.append(rows[at])
            case _:
                rows = [{**one, key: odd} if isinstance(one, dict) else one for one in rows]
    return rows


def _whole() -> Iterator[tuple[str, str, Content]]:
    """Files that are wrong as a whole: case, name, content."""
    good = _json_lines(_pairs())
    for name in WRITERS:
        yield f"empty {name}", f"x.{name}", b""
        yield f"blank {name}", f"x.{name}", b"\n \r\n\n"
        yield f"NULs {name}", f"x.{name}", b"\0" * 1000
        yield f"JSON lines named {name}", f"x.{name}", good
    for content in ("folder", "fifo", "loop", "dangling", "forbidden", "/dev/zero", "/dev/null"):
        yield content, "x.jsonl", content
    yield "memory of a process", "x.jsonl", "/proc/self/mem"
    yield "a file of the kernel", "x.jsonl", "/proc/self/pagemap"
    deep = 100_000
    yield "deep list", "x.json", b"[" * deep + b"]" * deep
    yield "deep object", "x.jsonl", b'{"a":' * deep + b"1" + b"}" * deep
    yield "deep in a row", "x.jsonl", good + b'{"prompt": ' + b"[" * 900 + b"]" * 900 + b"}\n"
    yield "huge line", "x.jsonl", json.dumps({"text": "a " * 4_000_000}).encode() + b"\n" + good
    yield "huge number", "x.jsonl", good + b'{"prompt": ' + b"9" * 5000 + b"}\n"
    yield "many short lines", "x.jsonl", b"{}\n" * 200_000
    yield "many columns", "x.csv", b",".join(b"c%d" % n for n in range(20_000)) + b"\n1\n"
    yield "quotation marks only", "x.csv", b'""\n""\n'
    yield "quotation marks unclosed", "x.csv", b'prompt,completion\n"a,b\n' + b"c,d\n" * 1000
    yield "separators only", "x.csv", b",,,\n,,,\n"
    yield "header only", "x.csv", b"prompt,completion\n"
    yield "header twice", "x.csv", b"prompt,prompt\na,b\n"
    yield "ragged", "x.csv", b"prompt,completion\na\nb,c,d\n,\n"
    yield "old line ends", "x.csv", b"prompt,completion\ra,b\rc,d\r"
    yield "NaN", "x.jsonl", b'{"prompt": NaN, "completion": -Infinity}\n'
    yield "key twice", "x.jsonl", b'{"text": "a", "text": "b"}\n{"text": "c"}\n'
    yield "lone surrogate in a name", "x.jsonl", b'{"\\ud800": "a"}\n'
    yield "bomb", "x.jsonl.gz", gzip.compress(b" " * (64 << 20), mtime=0) * 40
    yield "bomb of rows", "x.jsonl.gz", gzip.compress(b'{"text":"a"}\n' * (1 << 22), mtime=0) * 8
    yield "gzip cut short", "x.jsonl.gz", gzip.compress(good)[:-20]
    yield "gzip in gzip", "x.jsonl.gz", gzip.compress(gzip.compress(good))
    yield "git-lfs", "x.jsonl", b"version https://git-lfs.github.com/spec/v1\n"
    yield from ((f"Parquet of {case}", "x.parquet", content) for case, content in _odd_parquet())


def _odd_parquet() -> Iterator[tuple[str, bytes]]:
    import pyarrow as pa

    texts = ["a", "b", "c"]
    columns: Mapping[str, Any] = {
        "decimals": pa.array([None, None, None], pa.decimal128(38, 3)),
        "far times": pa.array([2**62, -(2**62), 0], pa.timestamp("us")),
        "times of a zone that is none": pa.array([0, 1, 2], pa.timestamp("us", tz="Mars/Base")),
        "far dates": pa.array([2**30, -(2**30), 0], pa.date32()),
        "durations": pa.array([2**62, 1, 2], pa.duration("s")),
        "bytes": pa.array([b"\xff", b"a", None]),
        "nothing": pa.nulls(3),
        "maps": pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int64())),
        "structures": pa.array([{"role": "user"}, None, {"role": "x"}]),
        "lists": pa.array([[{"role": "user", "content": "a"}], [], None]),
        "a dictionary": pa.array(texts).dictionary_encode(),
        "half floats": pa.array([1.0, 2.0, float("nan")], pa.float32()),
        "large texts": pa.array(texts, pa.large_string()),
    }
    for case, column in columns.items():
        yield case, parquet(pa.table({"text": column}))
        yield f"{case} beside texts", parquet(pa.table({"text": texts, "more": column}))
    yield "no column", parquet(pa.table({}))
    yield "no row", parquet(pa.table({"text": pa.array([], pa.string())}))
    twice = pa.Table.from_arrays([pa.array(texts), pa.array(texts)], ["text", "text"])
    yield "a name twice", parquet(twice)
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\x01\0\0\0"), pa.py_buffer(b"\xff")]
    )
    yield "broken UTF-8", parquet(pa.table({"text": broken}))
    yield "20 million nulls", parquet(pa.table({"text": pa.nulls(20_000_000, pa.string())}))
    long_text = pa.array(["a" * 1_000_000]).dictionary_encode()
    indices = pa.array([0] * 5000, pa.int32())
    repeated = pa.DictionaryArray.from_arrays(indices, long_text.dictionary)
    yield "one long text 5000 times", parquet(pa.table({"text": repeated}))


SETTINGS: Sequence[Mapping[str, Any]] = (
    {"template": "{title.__class__}"},
    {"template": "{prompt.__class__.__mro__} {completion}"},
    {"template": "{prompt[0]}"},
    {"template": "{prompt!r} {completion:>9999999999}"},
    {"template": "{0}"},
    {"template": "{"},
    {"template": "{prompt} {completion}"},
    {"template": "no field"},
    {"template": "{}"},
    {"columns": {"text": "prompt"}},
    {"columns": {"prompt": "completion", "completion": "prompt"}},
    {"columns": {"messages": "prompt"}},
    {"columns": {"": ""}},
    {"chat": True},
    {"chat": False},
    {"loss_on": "all"},
)


def data_files(scratch: Path, seed: int) -> Iterator[DataFile]:
    """Cases without end: those wrong as a whole first, in turn with mutated ones."""
    chance = random.Random(seed)
    whole = list(_whole())
    chance.shuffle(whole)
    number = 0
    while True:
        folder = scratch / "data" / f"{number:04d}"
        is_eval = chance.random() < 0.2
        if number % 2 and whole:
            case, name, content = whole.pop()
            yield DataFile(f"{number}: {case}", folder, name, content, {}, is_eval)
        else:
            yield _mutant(number, folder, chance, is_eval)
        number += 1


def _mutant(number: int, folder: Path, chance: random.Random, is_eval: bool) -> DataFile:
    kind, suffix = chance.choice(list(ROWS)), chance.choice(list(WRITERS))
    rows, case = ROWS[kind](), f"{number}: {kind}.{suffix}"
    settings = chance.choice(SETTINGS) if chance.random() < 0.2 else {}
    if chance.random() < 0.5:
        rows = rows_changed(rows, chance)
        case += ", rows_changed"
    content = WRITERS["jsonl"](rows)
    with suppress(Exception):  # what Arrow or CSV does not take stays JSON, under the wrong name
        content = WRITERS[suffix](rows)
    if "rows" not in case or chance.random() < 0.3:
        for _ in range(chance.choice((1, 1, 3))):
            content = chance.choice(BYTE_MUTATIONS)(content, chance)
        case += ", bytes_changed"
    name = f"x.{suffix if chance.random() < 0.95 else chance.choice(list(WRITERS))}"
    return DataFile(f"{case} {dict(settings) or ''}", folder, name, content, settings, is_eval)
