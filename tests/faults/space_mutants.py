"""Space files that nobody should write, made out of good ones."""

from __future__ import annotations

import io
import json
import os
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

import sweep.samplers.search_space  # noqa: F401 - once, not in each process that reads a file
from sweep.cli.options import console
from sweep.driver import preparation
from sweep.space.loading import load_space
from tests.faults.mutants import BYTE_MUTATIONS, Content, put

SEARCH_SPACES = Path(__file__).parents[2] / "search_spaces"

RUN_MARK = "CODE-WAS-RUN"
"""The file that code in a space would make."""
SMALL = """\
name: small
base_model: BASE
data: {train: data/train.jsonl, eval: 0.1, columns: {text: body}, max_length: 64}
search:
  rank: [8, 16]
  alpha: {times_rank: {min: 0.5, max: 2, log: true}}
  learning_rate: {min: 5e-5, max: 1e-3, log: true}
  max_grad_norm: {min: 0.5, max: 1.5, step: 0.5}
  use_dora: [true, false]
start_with:
  - &first {rank: 8, learning_rate: 1e-4, alpha: 8}
  - {<<: *first, rank: 16, alpha: 16}
budget: {trials: 3, hours: 1.5}
pruning: {overfit: {patience: 2}, outclassed: false}
evaluate: {times: 5, rows: 8}
sampler: tpe
seed: 3
"""
"""Every kind of value."""

ODD_VALUES = (
    "",
    "~",
    "-1",
    "0",
    "-0.0",
    "1",
    "1.5",
    "1e999",
    "-1e999",
    "1e308",
    "1e-320",
    ".inf",
    "-.inf",
    ".nan",
    "9" * 400,
    "9" * 5000,
    "0x" + "f" * 5000,
    "0o777",
    "0b1",
    "007",
    "1_000",
    "12:30:45",
    "2024-01-01",
    "2024-99-99",
    "2001-12-14t21:59:43.10-05:00",
    "yes",
    "true",
    "'8'",
    "''",
    "[]",
    "{}",
    "[[8], [16]]",
    "[8, null, eight, true]",
    "{min: 1}",
    "{min: 9, max: 1}",
    "{min: 1, max: 1e300, step: 1e-300}",
    "{min: 1, max: 9007199254740993}",
    "{? [1, 2] : 3}",
    "{times_rank: []}",
    "{times_rank: {times_rank: 1}}",
    "{times_rank: [1e308]}",
    "&a [*a]",
    "&a {b: *a}",
    "*nothing",
    "!!python/object/apply:os.system ['touch CODE-WAS-RUN']",
    "!!python/name:os.system",
    "!!python/object/new:subprocess.Popen [['touch', 'CODE-WAS-RUN']]",
    "!!binary aGVsbG8=",
    "!!binary '%'",
    "!!set {a, b}",
    "!!omap [a: 1, b: 2]",
    "!!int eight",
    "!!float x",
    "!!timestamp never",
    "!!bool maybe",
    "!!null 3",
    "!!str 3",
    "!!map [1]",
    "!!seq {a: 1}",
    "!mine {a: 1}",
    "!mine 8",
    "!<tag:example.org,2000:x> 8",
    "@x",
    "%x",
    "`x`",
    '"\\x00"',
    '"\\ud800"',
    '"\\e[31mred"',
    '"\\u202e"',
    "größe",
    "🙂" * 50,
    "a" * 300,
    "a" * 70_000,
    "a/" * 3000,
    "https://user:hunter2@example.org/m?token=hunter2",
    "../../../etc/passwd",
    "/dev/zero",
    "/proc/self/mem",
    "~/model",
    "loop",
    "loop/x",
    "fifo",
    "data",
    "org/name:split",
    "org/name[/red]",
    "'{title.__class__}'",
    "|\n    many\n    lines",
    ">-\n    folded",
    "[" * 3000 + "]" * 3000,
    "{a: " * 3000 + "}" * 3000,
    "[" * 3000,
)

LAUGHS = "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" if n else "a0: &a0 [lol]\n"
    for n in range(12)
)
CHAIN = "".join(f"a{n}: &a{n} [*a{n - 1}]\n" if n else "a0: &a0 [x]\n" for n in range(3000))
MERGES = "".join(
    f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}, *a{n - 1}], k{n}: 1}}\n" if n else "a0: &a0 {x: 1}\n"
    for n in range(25)
)

WHOLE: Mapping[str, Content] = {
    "empty": b"",
    "blank": b" \n\t\n",
    "comment": b"# nothing\n",
    "document end": b"...\n",
    "NULs": b"\0" * 4096,
    "binary": bytes(range(256)),
    "billion laughs": (LAUGHS + SMALL).encode(),
    "billion laughs in search": f"{LAUGHS}search: {{rank: *a11}}\n".encode(),
    "chain of aliases": (CHAIN + SMALL).encode(),
    "merges of merges": (MERGES + SMALL).encode(),
    "merge of itself": b"a: &a {<<: *a}\n",
    "merge of a number": b"<<: 3\n",
    "key that is a list": b"? [a, b]\n: c\n",
    "key that is a map": b"{{a: 1}: 2}\n",
    "key that is nothing": b"~: 2\n: 3\n",
    "deep in blocks": "".join(f"{' ' * n}a:\n" for n in range(1500)).encode(),
    "deep in dashes": b"- " * 5000,
    "deep in keys": b"? " * 5000,
    "deep in brackets": b"a: " + b"[" * 50_000,
    "directive": b"%YAML 9.9\n---\nname: x\n",
    "directive of tags": b"%TAG ! tag:x,2000:\n---\n!x name: x\n",
    "old YAML": b"%YAML 1.1\n---\n" + SMALL.encode(),
    "two documents": SMALL.encode() + b"---\n" + SMALL.encode(),
    "single value": b"42\n",
    "list": b"- 1\n- 2\n",
    "long key": b"k" * 100_000 + b": 1\n",
    "many keys": "".join(f"k{n}: {n}\n" for n in range(5000)).encode(),
    "many values": b"search: {rank: [" + b"8, " * 30_000 + b"8]}\n",
    "megabytes": SMALL.encode() + b"# " + b"x" * (8 << 20),
    "megabytes of rows": b'{"prompt": "a", "completion": "b"}\n' * 100_000,
    "number 5": b"5: 3\n'5': 4\n",
    "tagged top": b"!!python/object/apply:os.system ['touch CODE-WAS-RUN']\n",
    "tagged map": b"!!python/object:os._wrap_close {a: 1}\n",
    "set on top": b"!!set {name, search}\n",
    "ordered on top": b"!!omap [name: x, search: y]\n",
    "a folder": "folder",
    "a FIFO": "fifo",
    "a link to itself": "loop",
    "a link to nothing": "dangling",
    "an endless device": "/dev/zero",
    "an empty device": "/dev/null",
    "not readable": "forbidden",
}
"""Files that are wrong as a whole."""

OVERRIDES = (
    "name",
    "search.rank",
    "search.alpha.times_rank",
    "search",
    "data",
    "data.train",
    "data.columns.text",
    "start_with",
    "start_with.0",
    "budget.trials",
    "..",
    ".name",
    "search.",
    "name.x.y",
    "<<",
    "search.<<",
    "k" * 5000,
)


@dataclass(frozen=True, slots=True)
class SpaceText:
    """One case."""

    case: str
    path: Path
    content: Content
    overrides: Mapping[str, str] = field(default_factory=dict)

    def write(self) -> Path:
        """Put it where it is read."""
        return put(self.path, self.content)


def checked(space: SpaceText) -> None:
    """Do what `sweep check` does but for the data, whose report is made up."""
    loaded = load_space(space.write(), space.overrides)
    json.dumps(preparation.request(loaded, Path("data"), on_gpus=False))
    found = preparation.Check(Path("data"), REPORT, on_gpus=False)
    console().print(preparation.check_table(loaded, found))
    loaded.text.encode()


_COUNTS = {"rows": 2, "tokens": 9, "supervised_tokens": 5, "median": 4, "longest": 5}
REPORT: dict[str, Any] = {
    "train": {"64": {**_COUNTS, "cut": 0, "dropped": 0}},
    "eval": {**_COUNTS, "cut": 0, "dropped": 0},
    "sample_rows": 2,
    "evaluation_share": 0.1,
    "adapters": [],
    "memory": dict.fromkeys(
        ("weights_gib", "adapter_gib", "activations_gib", "base_parameters", "adapter_parameters"),
        1.0,
    ),
    "examples": [{"place": "train.jsonl line 1", "segments": [["a", True]]}],
}


def space_texts(scratch: Path, base: Path, seed: int) -> Iterator[SpaceText]:
    """Cases without end: those wrong as a whole first, in turn with mutated ones."""
    folder = scratch / "spaces"
    good = good_spaces(folder, base)
    chance = random.Random(seed)
    whole = list(WHOLE.items())
    chance.shuffle(whole)
    number = 0
    while True:
        path = folder / f"{number:04d}.yaml"
        if number % 2 and whole:
            case, content = whole.pop()
            yield SpaceText(f"{number}: {case}", path, content)
        else:
            name = chance.choice(list(good))
            if chance.random() < 0.15:
                key, value = chance.choice(OVERRIDES), chance.choice(ODD_VALUES)
                case = f"{number}: {name}, --set {key[:20]}={value[:40]}"
                yield SpaceText(case, path, good[name].encode(), {key: value})
            else:
                mutation = chance.choice(MUTATIONS)
                content = mutation(good[name], chance)
                yield SpaceText(f"{number}: {name}, {mutation.__name__}", path, content)
        number += 1


def good_spaces(folder: Path, base: Path) -> dict[str, str]:
    """The spaces of the project and a small one, with data and a model beside them."""
    (folder / "data/quickstart").mkdir(parents=True)
    base.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (base / name).touch()  # the space alone is read, not yet the model
    for path in ("data/train", "data/quickstart/train", "data/quickstart/eval"):
        (folder / f"{path}.jsonl").write_text('{"body": "a"}\n{"body": "b"}\n')
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "fifo")
    spaces = {path.name: path.read_text() for path in sorted(SEARCH_SPACES.glob("*.yaml"))}
    return {"small.yaml": SMALL.replace("BASE", str(base)), **spaces}


def bytes_changed(text: str, chance: random.Random) -> bytes:
    content = text.encode()
    for _ in range(chance.choice((1, 1, 2, 5))):
        content = chance.choice(BYTE_MUTATIONS)(content, chance)
    return content


def value_replaced(text: str, chance: random.Random) -> bytes:
    """Write an odd value in the place of one, as text, so that YAML's own reading is tried too."""
    places = list(re.finditer(r"(?<=: )[^\s,{}\[\]#][^,{}\[\]\n#]*|\[[^\]\n]*\]", text))
    place = chance.choice(places)
    odd = chance.choice(ODD_VALUES)
    return (text[: place.start()] + odd + text[place.end() :]).encode(errors="surrogatepass")


def values_replaced(text: str, chance: random.Random) -> bytes:
    for _ in range(3):
        text = value_replaced(text, chance).decode(errors="surrogatepass")
    return text.encode(errors="surrogatepass")


def key_replaced(text: str, chance: random.Random) -> bytes:
    place = chance.choice(list(re.finditer(r"\w+(?=: )", text)))
    odd = chance.choice(ODD_VALUES)
    return (text[: place.start()] + odd + text[place.end() :]).encode(errors="surrogatepass")


def lines_changed(text: str, chance: random.Random) -> bytes:
    lines = text.splitlines(keepends=True)
    at = chance.randrange(len(lines))
    changed = chance.choice(
        (
            lambda: [lines[at], lines[at]],
            lambda: [],
            lambda: [" " + lines[at]],
            lambda: ["\t" + lines[at]],
            lambda: [lines[at].lstrip()],
            lambda: [lines[at].rstrip() + " : :\n"],
            lambda: [lines[at].replace(":", "", 1)],
            lambda: [lines[at].rstrip() + chance.choice(ODD_VALUES) + "\n"],
            lambda: ["---\n", lines[at]],
            lambda: ["<<: {a: 1}\n", lines[at]],
            lambda: [lines[chance.randrange(len(lines))], lines[at]],
        )
    )()
    return "".join([*lines[:at], *changed, *lines[at + 1 :]]).encode()


def structure_changed(text: str, chance: random.Random) -> bytes:
    """Put one part of the document in the place of another, or a value of another type."""
    document = YAML(typ="safe").load(text)
    places = list(_places(document))
    for _ in range(chance.choice((1, 2, 4))):
        parent, key = chance.choice(places)
        elsewhere, other = chance.choice(places)
        odd = chance.choice(
            [None, True, -1, 0, 1.5, "", "x", [], {}, [[]], {"a": [None]}, 10**25, elsewhere[other]]
        )
        if odd is not parent:
            parent[key] = json.loads(json.dumps(odd))
    stream = io.StringIO()
    YAML(typ="safe").dump(document, stream)
    return stream.getvalue().encode()


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    keys = (
        list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    )
    for key in keys:
        yield node, key
        yield from _places(node[key])


MUTATIONS: tuple[Callable[[str, random.Random], bytes], ...] = (
    bytes_changed,
    value_replaced,
    value_replaced,
    values_replaced,
    key_replaced,
    lines_changed,
    structure_changed,
)
