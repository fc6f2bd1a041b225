"""`objective`: what trials are judged by; the user's own metric is read here and never run."""

import ast
import difflib
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sweep.space.hyperparameters import Problem, shown
from sweep.space.settings import ObjectiveSettings
from trials.config import EVAL_LOSS, Direction, Objective

DIRECTIONS: Mapping[str, Direction] = {
    EVAL_LOSS: "minimize",
    "token_accuracy": "maximize",
    "exact_match": "maximize",
    "rouge_l": "maximize",
}
"""Of the built-in metrics."""
LOGGED = frozenset(
    "train_loss eval_loss eval_loss_best generalisation_gap learning_rate grad_norm "
    "tokens_per_second gpu_memory_gib gpu_busy epoch training_seconds evaluation_seconds".split()
)
"""Metrics of a trial that MLflow has whatever the objective is."""
ARGUMENTS = ("predictions", "references", "rows")


def objective_of(settings: ObjectiveSettings) -> Objective:
    """The objective of a checked space, as a trial is told it."""
    if settings.python is not None:
        assert settings.direction is not None, "checked by `problems`"
        file_name, _, function = settings.python.rpartition(":")
        return Objective(
            name=function, direction=settings.direction, python=f"{Path(file_name).name}:{function}"
        )
    name = settings.metric or EVAL_LOSS
    return Objective(name=name, direction=DIRECTIONS[name])


def metric_path(python: str, folder: Path) -> Path:
    """The file of `metric.py:score`, relative to the folder of the space."""
    return folder / python.rpartition(":")[0]


def problems(raw: Mapping[str, Any], folder: Path) -> Iterator[Problem]:
    """Say what is wrong with the section, as far as its keys fit each other.

    Args:
        raw: The whole file.
        folder: The file's.
    """
    given = raw.get("objective")
    if not isinstance(given, dict):
        return
    metric, python, direction = (given.get(key) for key in ("metric", "python", "direction"))
    if metric is not None and python is not None:
        words = "cannot go with python; give the built-in metric or your own."
        yield Problem(("objective", "metric"), words)
        return
    if isinstance(python, str):
        yield from _python_problems(python, folder)
        if direction is None:
            words = (
                "is missing; your own metric needs it: write `direction: maximize` if higher is "
                "better, else `direction: minimize`."
            )
            yield Problem(("objective", "direction"), words)
    else:
        yield from _built_in_problems(given, str(metric or EVAL_LOSS))
    is_metric = python is not None or metric not in (None, EVAL_LOSS)
    if is_metric and raw.get("backend") == "unsloth":
        words = "Unsloth measures only eval loss; write auto, or transformers."
        yield Problem(("backend",), words)


def _built_in_problems(given: Mapping[str, Any], name: str) -> Iterator[Problem]:
    right = DIRECTIONS.get(name)
    direction = given.get("direction")
    if right is not None and direction in ("minimize", "maximize") and direction != right:
        words = f"must be {right} for {name}, not {direction}; remove it."
        yield Problem(("objective", "direction"), words)
    for key in ("rows", "max_new_tokens"):
        if key in given and name in (EVAL_LOSS, "token_accuracy"):
            words = f"has no effect on {name}, which generates nothing; remove it."
            yield Problem(("objective", key), words)
    if name == "rouge_l" and importlib.util.find_spec("rouge_score") is None:
        words = (
            "rouge_l needs its extra: pip install -c constraints.txt -e '.[rouge]', "
            "or choose another metric."
        )
        yield Problem(("objective", "metric"), words)


def _python_problems(python: str, folder: Path) -> Iterator[Problem]:
    path = ("objective", "python")
    file_name, _, function = python.rpartition(":")
    if not file_name.endswith(".py") or not function.isidentifier():
        rule = "must be a file and a function in it, such as my_metrics.py:score"
        yield Problem(path, f"{rule}, not {shown(python)}.")
        return
    if function in LOGGED:
        yield Problem(path, f"{function} is already logged for every trial; rename the function.")
        return
    file = folder / file_name
    if not file.is_file():
        siblings = [p.name for p in file.parent.glob("*.py")] if file.parent.is_dir() else []
        near = difflib.get_close_matches(file.name, siblings, n=1)
        mend = (
            f"; did you mean {near[0]}?"
            if near
            else f" (paths start at this file's folder, {folder.resolve()})."
        )
        yield Problem(path, f"no such file: {file_name}{mend}")
        return
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except (SyntaxError, ValueError) as error:
        line = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else str(error)
        yield Problem(path, f"{file_name} is not valid Python: {line}. Fix that line.")
        return
    except OSError as error:
        yield Problem(path, f"{file_name} cannot be read: {error.strerror}.")
        return
    if wrong := _function_problem(tree, file_name, function):
        yield Problem(path, wrong)


def _function_problem(tree: ast.Module, file_name: str, function: str) -> str | None:
    found = {
        node.name: node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    node = found.get(function)
    if node is None:
        near = difflib.get_close_matches(function, list(found), n=1)
        there = f"did you mean {near[0]}?" if near else f"there are: {', '.join(found) or 'none'}."
        return f"{file_name} has no function {function} at its top level; {there}"
    if isinstance(node, ast.AsyncFunctionDef):
        return f"{function} must be a plain function, not async."
    arguments = node.args
    n_named = len(arguments.posonlyargs) + len(arguments.args)
    n_needed = n_named - len(arguments.defaults)
    n_given = len(ARGUMENTS)
    fits = n_needed <= n_given and (n_named >= n_given or arguments.vararg is not None)
    needs_more = any(default is None for default in arguments.kw_defaults)
    if not fits or needs_more:
        return (
            f"{function} is called with {n_given} arguments ({', '.join(ARGUMENTS)}), but it is "
            f"defined as {function}({ast.unparse(arguments)}); change its definition."
        )
    return None
