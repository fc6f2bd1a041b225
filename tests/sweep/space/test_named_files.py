"""The chat template that a space names: a file beside it, or a known name."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweep.errors import SpaceError
from sweep.space.loading import load_space
from sweep.space.space import Space
from trials.rendering.chat_templates import CHATML_TEXT, named

SPACE = """\
base_model: smollm2-135m
data: {{train: rows.jsonl, eval: 0.1, {data}}}
search: {{rank: [8]}}
"""


def load(folder: Path, data: str) -> Space:
    (folder / "rows.jsonl").write_text("{}")
    (folder / "mine.yaml").write_text(SPACE.format(data=data))
    return load_space(folder / "mine.yaml")


def test_a_template_is_a_file_beside_the_space_or_a_known_name(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("{{ messages }} é", encoding="utf-8")
    assert load(tmp_path, "chat_template: mine.jinja").chat_template == "{{ messages }} é"
    assert load(tmp_path, "chat_template: chatml").chat_template == CHATML_TEXT
    assert load(tmp_path, "chat_template: qwen3").chat_template == named("qwen3")
    assert load(tmp_path, "max_length: 64").chat_template is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("mien.jinja", r"no such file: mien\.jinja; did you mean mine\.jinja\?"),
        ("latin.jinja", r"latin\.jinja must be UTF-8, but byte 2 is not; save it as UTF-8\."),
        ("broken.jinja", r"broken\.jinja is not valid Jinja: line 2: .*\. Fix that line\."),
        ("qwen33", r"not qwen33; did you mean qwen3\? Known: chatml, .*qwen3_training"),
        ("ChatML", r"not ChatML; did you mean chatml\?"),
        ("'{{ messages }}'", r"must be a Jinja file beside this one, such as mine\.jinja, or"),
    ],
)
def test_a_template_that_cannot_be_used_is_told(tmp_path: Path, given: str, words: str) -> None:
    (tmp_path / "mine.jinja").write_text("")
    (tmp_path / "latin.jinja").write_bytes("{}é".encode("latin-1"))
    (tmp_path / "broken.jinja").write_text("one\n{% if x %}two")
    with pytest.raises(SpaceError, match=rf"line 2   data\.chat_template: .*{words}"):
        load(tmp_path, f"chat_template: {given}")


def test_an_argument_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    words = r"data\.template_arguments\.day: .*, not 2026-01-02\. Put it in quotes\."
    with pytest.raises(SpaceError, match=words):
        load(tmp_path, "template_arguments: {thinking: false, day: 2026-01-02}")
