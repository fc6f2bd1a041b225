"""The pages: links and anchors lead somewhere, commands and paths exist, README stays short."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from sweep.cli.commands import app
from sweep.space.loading import load_space

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
]
MOST_LINES, MOST_WORDS = 200, 2500
"""Of README."""
OF_OTHERS = {
    "--app-name",  # mlflow server
    "--artifacts-destination",
    "--account",  # sbatch
    "--again",  # tests.zoo
    "--jobs",
    "--requeue",
    "--data",  # tests.benchmarks and tests.faults
    "--only",
    "--pruning",
    "--what",
}
"""Options that pages name alone, and that are not `sweep`'s."""

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

_FENCE = re.compile(r"^[ ]*(```+)[ ]*(\w*)\n(.*?)^[ ]*\1[ ]*$", re.MULTILINE | re.DOTALL)
_PATH = re.compile(r"(sweep|trials|tests|search_spaces|\.ci|\.github)/[\w./-]*")


def blocks(text: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page: language and code."""
    return [(language, textwrap.dedent(code)) for _, language, code in _FENCE.findall(text)]


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", text)


def spans(text: str) -> list[str]:
    """The code within a page's prose, each on one line."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(text))]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?)[ #]*$", prose(text), re.MULTILINE):
        shown = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        n = 0
        while (unique := f"{slug}-{n}" if n else slug) in found:
            n += 1
        found.add(unique)
    return found


def broken_links(page: Path, text: str) -> Iterator[str]:
    """The links of a page, to files beside it and to headings, that lead nowhere."""
    without_code = re.sub(r"`[^`]*`", "", prose(text))
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        other = page.parent / name if name else page
        is_there = os.path.normpath(other).startswith(str(ROOT)) and other.exists()
        if is_there and anchor:
            shown = other.read_text(encoding="utf-8") if name else text
            is_there = other.suffix == ".md" and anchor in anchors(shown)
        if not is_there:
            yield target


def command_lines(text: str) -> Iterator[tuple[list[str], bool]]:
    """The calls of `sweep` in a page: their words, and whether they are written as in a shell."""
    for language, code in blocks(text):
        is_shell = language in ("sh", "bash")
        for line in code.replace("\\\n", " ").splitlines():
            if is_shell or line.startswith("$ "):
                yield from ((words, True) for words in _calls(line.removeprefix("$ ")))
    for span in spans(text):
        yield from ((words, False) for words in _calls(span))


def _calls(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:  # a quotation mark that is one of a sentence
        words = line.split()
    call: list[str] = []
    for word in [*words, ";"]:
        if word and not set(word) <= set("();<>|&"):
            call.append(word)
            continue
        while call and re.match(r"[A-Z_]+=", call[0]):
            call.pop(0)
        if call[:1] == ["sweep"]:
            yield call[1:]
        call = []


def group() -> TyperGroup:
    """The commands."""
    found = typer.main.get_command(app)
    assert isinstance(found, TyperGroup)
    return found


def options_of(command: Any) -> set[str]:
    own = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    return own | {"-h", "--help"}


def wrong_commands(text: str) -> Iterator[str]:
    """The calls of `sweep` in a page with a command or an option that there is not."""
    commands = group()
    known = set.union(*(options_of(each) for each in commands.commands.values()))
    for words, is_shell in command_lines(text):
        line = shlex.join(["sweep", *words])
        name, *given = words or [""]
        if name.startswith("-") or not name:
            if name and name not in options_of(commands):
                yield line
            continue
        command = commands.commands.get(name)
        if command is None:
            yield line
            continue
        options = {word.partition("=")[0] for word in given if word.startswith("-")}
        if unknown := options - options_of(command):
            yield f"{line}: {', '.join(sorted(unknown))}"
        elif is_shell:
            try:
                command.make_context(name, list(given))
            except typer.Exit:  # --help
                continue
            except Exception as error:  # of click's own, wherever typer keeps that
                yield f"{line}: {error}"
    for span in spans(text):
        option = re.match(r"--[\w-]+", span)
        if option and option[0] not in known | OF_OTHERS:
            yield span


def wrong_modules(text: str) -> Iterator[str]:
    """The calls of `python -m` in a page with a module, or an option of ours, that there is not."""
    code = "\n".join([*(code for _, code in blocks(text)), *spans(text)])
    for module, rest in re.findall(r"\bpython3? -m ([\w.]+)([^\n`#]*)", code):
        source = _source(module)
        if source is None:
            yield f"python -m {module}"
            continue
        if module.startswith(("tests.", "sweep.", "trials.")):
            for option in re.findall(r"(?<=\s)--[\w-]+", rest):
                if f'"{option}"' not in source:
                    yield f"python -m {module} {option}"


def _source(module: str) -> str | None:
    """The text of what `python -m MODULE` runs; None: there is no such thing."""
    try:
        found = importlib.util.find_spec(module)
        if found is not None and found.submodule_search_locations is not None:
            found = importlib.util.find_spec(f"{module}.__main__")
    except ModuleNotFoundError:
        return None
    if found is None or found.origin is None:
        return None
    return Path(found.origin).read_text(encoding="utf-8")


def missing_paths(text: str) -> list[str]:
    """Files and folders of this repository that a page names in its code and that are not there."""
    return [span for span in spans(text) if _PATH.fullmatch(span) and not (ROOT / span).exists()]


def too_long(text: str) -> list[str]:
    """What of the README's limits is not held."""
    n_lines, n_words = len(text.splitlines()), len(text.split())
    words = [f"{n_lines} lines"] if n_lines > MOST_LINES else []
    return words + ([f"{n_words} words"] if n_words > MOST_WORDS else [])


def test_there_are_pages() -> None:
    assert {ROOT / "README.md", ROOT / "CONTRIBUTING.md"} <= set(PAGES)
    assert len(PAGES) >= 10


@every_page
def test_links_lead_to_files_and_headings(page: Path) -> None:
    assert list(broken_links(page, page.read_text(encoding="utf-8"))) == []


@every_page
def test_commands_and_options_exist(page: Path) -> None:
    assert list(wrong_commands(page.read_text(encoding="utf-8"))) == []


@every_page
def test_modules_exist(page: Path) -> None:
    assert list(wrong_modules(page.read_text(encoding="utf-8"))) == []


@every_page
def test_paths_in_code_exist(page: Path) -> None:
    assert missing_paths(page.read_text(encoding="utf-8")) == []


def test_the_readme_is_short() -> None:
    assert too_long((ROOT / "README.md").read_text(encoding="utf-8")) == []


def test_every_command_is_in_the_readmes_table() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `sweep (\w+)", text, re.MULTILINE)
    assert sorted(rows) == sorted(group().commands)


@pytest.mark.parametrize("name", ["README.md", "search_spaces/README.md"])
def test_the_spaces_of_a_page_load(name: str, tmp_path: Path) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    spaces = [code for kind, code in blocks(text) if kind == "yaml" and "base_model:" in code]
    assert spaces
    (tmp_path / "data").mkdir()
    for folder in (tmp_path, tmp_path / "data"):
        (folder / "train.jsonl").write_text('{"prompt": "2 + 2 =", "completion": " 4"}\n')
    for number, code in enumerate(spaces):
        path = tmp_path / f"space-{number}.yaml"
        path.write_text(code)
        load_space(path)


@pytest.mark.parametrize(
    "heading",
    ["## Is it `sweep run`, or not?", "## What is α? (and 50 %)", "## [Pages](x.md) here"],
)
def test_anchors_are_made_as_github_makes_them(heading: str) -> None:
    made = {"is-it-sweep-run-or-not", "what-is-α-and-50-", "pages-here"}
    assert anchors(f"{heading}\n") <= made


def test_the_second_heading_of_a_name_has_a_number() -> None:
    assert anchors("# Run\n\n## Run\n\n```sh\n# Not one\n```\n") == {"run", "run-1"}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[a](CHANGELOG.md) and [b](https://optuna.org)", []),
        ("[a](no-such.md)", ["no-such.md"]),
        ("# Here\n[a](#here) [b](#there)", ["#there"]),
        ("[a](CONTRIBUTING.md#checks) [b](CONTRIBUTING.md#cheques)", ["CONTRIBUTING.md#cheques"]),
        ("[a](../elsewhere.md)", ["../elsewhere.md"]),
        ("[a](LICENSE#terms)", ["LICENSE#terms"]),
        ("`[a](no-such.md)`\n\n```sh\n[a](no-such.md)\n```\n", []),
    ],
)
def test_a_link_that_leads_nowhere_is_found(text: str, wrong: list[str]) -> None:
    assert list(broken_links(ROOT / "README.md", text)) == wrong


@pytest.mark.parametrize(
    "text",
    [
        "`sweep runs my.yaml`",
        "`sweep run my.yaml --epochs 2`",
        "`sweep --update`",
        "`--no-such-flag`",
        "```sh\nA=1 sweep status my && sweep fly my\n```\n",
        "```sh\nsweep show\n```\n",
        "```sh\nsweep show my --sort colour\n```\n",
        "```\n$ sweep submit my.yaml --fast\n```\n",
    ],
)
def test_a_command_that_does_not_exist_is_found(text: str) -> None:
    assert len(list(wrong_commands(text))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "`sweep show NAME [TRIAL]` and `sweep` and `sweep --version`",
        "```sh\npip install x && CUDA_VISIBLE_DEVICES=0 sweep run my.yaml --gpus 1  # one\n```\n",
        "```sh\nsweep trial my.yaml --params '{\"rank\": 16}' --no-evaluate-base > out\n```\n",
        "```\nsweep fly is not a shell's line\n```\n",
    ],
)
def test_a_command_that_exists_is_not(text: str) -> None:
    assert list(wrong_commands(text)) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("`python -m tests.faults --only kill`", []),
        ("`python -m tests.no_faults`", ["python -m tests.no_faults"]),
        ("`python -m tests.servers`", ["python -m tests.servers"]),  # has no __main__
        ("`python -m tests.faults --gently`", ["python -m tests.faults --gently"]),
        ("```sh\npython3 -m venv .venv\n```\n", []),
    ],
)
def test_a_module_that_does_not_exist_is_found(text: str, wrong: list[str]) -> None:
    assert list(wrong_modules(text)) == wrong


def test_a_path_that_does_not_exist_is_found() -> None:
    text = "`tests/test_pages.py`, `sweep/no_such.py`, `trials/`, `sweeps/my/best/`"
    assert missing_paths(text) == ["sweep/no_such.py"]


def test_a_readme_that_is_too_long_is_found() -> None:
    assert too_long("a b\n" * MOST_LINES) == []
    assert too_long("a\n" * (MOST_LINES + 1)) == ["201 lines"]
    assert too_long("a " * (MOST_WORDS + 1)) == ["2501 words"]
