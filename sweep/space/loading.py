"""SPACE.yaml → a checked `Space`; every problem of a file at once, each with its line."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sweep.errors import SpaceError
from sweep.space.epochs import most, passed_through
from sweep.space.hyperparameters import Problem, shown
from sweep.space.named_files import missing, missing_file, missing_model, missing_template
from sweep.space.objective import problems as objective_problems
from sweep.space.search_section import as_mapping, domains_of, only_value, search_problems
from sweep.space.setting_problems import problems_of
from sweep.space.settings import Settings, as_name
from sweep.space.space import SPLITS, Space
from sweep.space.target_modules import as_one
from sweep.space.unknown_keys import without_explained
from sweep.space.usual_points import Start, usual_starts
from sweep.space.yaml_file import SpaceFile, of_mapping, read

DEFAULT_TRIALS = 24


def load_space(
    space: Path | Mapping[str, Any],
    overrides: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Space:
    """Read and check a space.

    Args:
        space: The file, or what would stand in it.
        overrides: `--set` of the command line: dotted key → value as YAML.
        folder: Where relative paths of a file begin; None: beside it.

    Raises:
        SpaceError: With every problem of the file, each with its line and its mend.
    """
    if isinstance(space, Path):
        return checked(read(space, overrides or {}, folder))
    return checked(of_mapping(space, overrides or {}))


def checked(file: SpaceFile) -> Space:
    """Check a file that was read; see `load_space`."""
    raw = file.plain
    problems = [
        *_field_problems(raw, file),
        *objective_problems(raw, file.folder),
        *search_problems(raw),
    ]
    if problems:
        raise SpaceError(file.in_words(list(without_explained(problems))))
    space = _build(raw, file)
    if wrong := _final_problem(space):
        raise SpaceError(file.in_words([wrong]))
    return space


def _final_problem(space: Space) -> Problem | None:
    final, form = space.settings.final, space.checkpoint
    if final is None or final.base != "16-bit" or form is None or form.is_dequantised:
        return None
    words = f"must be as-trained: {space.settings.base_model} is quantised already ({form.name})."
    return Problem(("final_evaluation", "base"), f"{words} Or name the checkpoint in 16 bits.")


def space_as_run(path: Path) -> Space:
    """Read a space that was checked when it was run; its data may be elsewhere by now.

    Raises:
        SpaceError: It cannot be read.
    """
    file = read(path, {})
    try:
        return _build(file.plain, file)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise SpaceError(
            f"{path}: must be the space as the sweep ran it, but is not whole "
            f"({' '.join(str(error).split())[:80]}). Run the sweep's command: it writes it again."
        ) from None


def _field_problems(raw: dict[str, Any], file: SpaceFile) -> list[Problem]:
    path, folder = file.path, file.folder
    fields = {key: value for key, value in raw.items() if key not in ("search", "start_with")}
    problems: list[Problem] = []
    try:
        Settings.model_validate(_with_name(fields, path))
    except ValidationError as error:
        problems += problems_of(error, raw)
    data, search = as_mapping(raw.get("data")), as_mapping(raw.get("search"))
    problems += _data_problems(data, folder)
    base_model = raw.get("base_model")
    if isinstance(base_model, str) and (words := missing(missing_model, folder, base_model)):
        problems.append(Problem(("base_model",), words))
    template = data.get("chat_template")
    if isinstance(template, str) and (words := missing(missing_template, folder, template)):
        problems.append(Problem(("data", "chat_template"), words))
    problems += _argument_problems(as_mapping(data.get("template_arguments")))
    if data.get("max_length") is not None and "max_length" in search:
        problems.append(Problem(("search", "max_length"), "is also set in data; remove one."))
    problems += _own_name_problems(raw, path)
    if raw.get("backend") == "unsloth":
        problems += [Problem((key,), words) for key, words in _beyond_unsloth(raw)]
    return problems


def _argument_problems(arguments: Mapping[str, Any]) -> Iterator[Problem]:
    for name, value in arguments.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):  # a date, say: it could not be kept in the study
            words = f"must be a text, a number, true or false, or a list of such, not {value}."
            yield Problem(("data", "template_arguments", name), f"{words} Put it in quotes.")


def _data_problems(data: Mapping[str, Any], folder: Path) -> Iterator[Problem]:
    for which in SPLITS:
        given = data.get(which)
        for index, one in enumerate(given if isinstance(given, list) else [given]):
            if isinstance(one, str) and (words := missing(missing_file, folder, one)):
                yield Problem(("data", which, *([index] if isinstance(given, list) else [])), words)
    held_out = [share for which in SPLITS if isinstance(share := data.get(which), float)]
    if len(held_out) > 1 and sum(held_out) >= 1:
        words = f"and data.eval hold out {sum(held_out):g} of train; lower one: together below 1."
        yield Problem(("data", "test"), words)
    templates = [k for k in ("template", "prompt", "completion") if data.get(k) is not None]
    for key in templates:
        if data.get("columns"):
            yield Problem(("data", key), "names columns itself; remove data.columns.")
    if len(templates) > 1 and "template" in templates:
        words = "builds the whole text; remove it, or data.prompt and data.completion."
        yield Problem(("data", "template"), words)
    for key, other in (("prompt", "completion"), ("completion", "prompt")):
        if key in templates and other not in templates:
            yield Problem(("data", key), f"needs data.{other}, such as `{_SUCH[other]}`.")
    columns = as_mapping(data.get("columns"))
    ignored = data.get("ignore")
    for index, name in enumerate(ignored if isinstance(ignored, list) else []):
        if name in columns.values():
            words = f"{shown(name)} is read as data.columns says; remove it in one place."
            yield Problem(("data", "ignore", index), words)


_SUCH = {"prompt": "Question: {question}", "completion": " {answer}"}


def _own_name_problems(raw: dict[str, Any], path: Path) -> Iterator[Problem]:
    own, given = _with_name(raw, path)["name"], raw.get("start_from")
    words = f"must be an earlier sweep, not {shown(own)} itself, which resumes anyway."
    for index, name in enumerate(given if isinstance(given, list) else [given]):
        if isinstance(name, str) and name == own:
            where = ("start_from", index) if isinstance(given, list) else ("start_from",)
            yield Problem(where, f"{words} Name another, or remove it.")


def _beyond_unsloth(raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if raw.get("compute_dtype") == "float32":
        words = "Unsloth's kernels compute in 16 bits; write auto, or backend: transformers."
        yield "compute_dtype", words
    n_gpus = raw.get("gpus_per_trial")
    if isinstance(n_gpus, int) and n_gpus > 1:
        words = f"Unsloth trains on one GPU, not on {n_gpus}; write 1, or backend: transformers."
        yield "gpus_per_trial", words


def _with_name(fields: dict[str, Any], path: Path) -> dict[str, Any]:
    return {"name": as_name(path.stem), **fields}


def _build(raw: dict[str, Any], file: SpaceFile) -> Space:
    fields = {key: value for key, value in raw.items() if key not in ("search", "start_with")}
    settings = Settings.model_validate(_with_name(fields, file.path))
    domains = domains_of(raw)
    epochs = passed_through(domains)
    if epochs is not None:
        domains["epochs"] = most(epochs)
    starts = usual_starts(domains, settings.base_model)
    if "start_with" in raw:
        rank = only_value(domains["rank"])
        fixed = {} if rank is None else {"rank": rank}  # alpha may be a multiple of it
        given = ({n: as_one(n, v) for n, v in point.items()} for point in raw["start_with"])
        starts = [Start({**fixed, **values}, "start_with") for values in given]
    if all(limit is None for limit in settings.budget.limits.values()):
        budget = settings.budget.model_copy(update={"trials": DEFAULT_TRIALS})
        settings = settings.model_copy(update={"budget": budget})
    return Space(
        settings=settings,
        domains=domains,
        epochs_passed_through=epochs,
        starts=tuple(starts),
        folder=file.folder.resolve(),
        text=file.text,
    )
