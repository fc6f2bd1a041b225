"""Names of files and of the study's attributes stand once, where a reader looks for them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from sweep.folder import layout
from sweep.storage import attributes
from trials import trial_folder

ROOT = Path(__file__).parents[3]
HOMES = {Path(module.__file__ or "") for module in (layout, trial_folder, attributes)}

OTHER_VOCABULARIES = {
    # JSON for programs, tables, MLflow's tags and metrics, of the same numbers
    *("outcome", "outcome_reason", "hyperparameters", "result", "curve", "state"),
    *("base_eval_loss", "base_value", "eval_loss_best", "n_lost"),
    *("paused", "stop", "tune"),  # outcomes, commands
    *("search", "start_from", "data", "memory", "adapter", "trials"),  # keys of YAML and JSON
    *("answers", "price_per_gpu_hour"),  # the same
    *("tokenizer", "date"),  # the same
    *("task", "best", "confirm", "alone", "lock", "seen", "plots"),  # plain words
}
OTHER_FILES = {
    *(("sweep/space/named_files.py", "config.json"), ("trials/node_check.py", "config.json")),
    ("trials/preparation/model_checks.py", "config.json"),
    ("trials/backends/quantised.py", "config.json"),  # a base model's own
    ("trials/models/checkpoint.py", "config.json"),
    ("trials/exported.py", "tokenizer_config.json"),  # which imports nothing of ours
    ("trials/exported.py", "chat_template.jinja"),
    ("sweep/cluster/kuberay.py", "data"),  # in the package of a job
}


def names_of(*modules: ModuleType) -> set[str]:
    found = (value for module in modules for name, value in vars(module).items() if name.isupper())
    return {value for value in found if isinstance(value, str)}


def elsewhere() -> Iterator[tuple[str, ast.AST]]:
    """All nodes of the product outside of the names' homes, each with its file."""
    for path in sorted([*ROOT.glob("sweep/**/*.py"), *ROOT.glob("trials/**/*.py")]):
        if path not in HOMES:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                yield path.relative_to(ROOT).as_posix(), node


def parts_of_paths() -> Iterator[tuple[str, str]]:
    """What stands on the right of a `/`, as text."""
    for file, node in elsewhere():
        match node:
            case ast.BinOp(op=ast.Div(), right=ast.Constant(value=str(text))):
                yield file, text
            case ast.BinOp(op=ast.Div(), right=ast.JoinedStr() as text):
                yield file, ast.unparse(text)


def keys_of_attributes() -> Iterator[tuple[str, str]]:
    """Texts by which `user_attrs` is read or written."""
    for file, node in elsewhere():
        match node:
            case ast.Subscript(value=ast.Attribute(attr="user_attrs"), slice=ast.Constant(key)):
                yield file, str(key)
            case ast.Call(
                func=ast.Attribute(value=ast.Attribute(attr="user_attrs"), attr="get"),
                args=[ast.Constant(key), *_],
            ):
                yield file, str(key)
            case ast.Call(func=ast.Attribute(attr="set_user_attr"), args=[ast.Constant(key), *_]):
                yield file, str(key)
            case ast.Compare(
                left=ast.Constant(key), comparators=[ast.Attribute(attr="user_attrs")]
            ):
                yield file, str(key)


def test_names_that_mean_nothing_else_stand_once() -> None:
    names = names_of(layout, trial_folder, attributes)
    assert names >= OTHER_VOCABULARIES
    texts = {(file, node.value) for file, node in elsewhere() if isinstance(node, ast.Constant)}
    found = {(file, text) for file, text in texts if text in names - OTHER_VOCABULARIES}
    assert found - OTHER_FILES == set()


def test_no_path_names_a_file_of_a_sweep_itself() -> None:
    names = names_of(layout, trial_folder)
    parts = set(parts_of_paths()) - OTHER_FILES
    assert {(file, part) for file, part in parts if part in names or ":03d}" in part} == set()


def test_no_attribute_of_a_study_is_read_or_written_by_a_literal() -> None:
    assert set(keys_of_attributes()) == set()
