"""What a job brings along to a cluster: the space, the files that it names, and this program."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from sweep.errors import SpaceError
from sweep.folder import layout
from sweep.space.space import SPLITS, Space, Split
from sweep.space.yaml_file import read
from sweep.text.numbers import megabytes

MOST_BYTES = 500 * 10**6
"""Ray keeps a job's files in the head's memory, 512 MiB at most."""
MODEL_SUFFIXES = (".json", ".jinja", ".model", ".safetensors", ".txt")


@dataclass(frozen=True, slots=True)
class Item:
    """A file that travels."""

    key: str
    """Of the space, such as `data.train`."""
    source: Path
    target: str
    """Within the package."""

    @property
    def n_bytes(self) -> int:
        return self.source.stat().st_size


def pack_program(folder: Path) -> None:
    """Write this program into `folder`: a cluster then runs the version that is here.

    Its metadata go with it, since the program asks for its own version and dependencies.
    """
    root, no_caches = Path(__file__).parents[2], shutil.ignore_patterns("__pycache__", "*.pyc")
    for package in ("sweep", "trials"):
        shutil.copytree(root / package, folder / package, ignore=no_caches)
    ours = distribution("sweep")
    about = folder / f"sweep-{ours.version}.dist-info"
    about.mkdir()
    text = ours.read_text("METADATA") or ours.read_text("PKG-INFO") or ""
    (about / "METADATA").write_text(text.partition("\n\n")[0] + "\n", encoding="utf-8")


def pack_space(path: Path, space: Space, overrides: Mapping[str, str], folder: Path) -> int:
    """Write a space, the local files that it names and this program into `folder`.

    Nothing else travels: no other file beside the space, whatever it is.

    Returns:
        The bytes of the local files.

    Raises:
        SpaceError: They are too many; says which file is how large, and what to do.
    """
    items = list(_items(space))
    _check_size(path, items)
    for item in items:
        target = folder / item.target
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(item.source, target)
    moved: dict[str, Any] = {item.key: item.target for item in items if item.key != "base_model"}
    moved |= _data_targets(space)
    if space.metric_file is not None:
        moved["objective.python"] += f":{space.objective.name}"
    if any(item.key == "base_model" for item in items):
        moved["base_model"] = _model_target(space)
    renamed = {key: json.dumps(target) for key, target in {**moved, "name": space.name}.items()}
    file = read(path, {**overrides, **renamed})
    (folder / layout.SPACE).write_text(file.text, encoding="utf-8")
    pack_program(folder)
    return sum(item.n_bytes for item in items)


def _items(space: Space) -> Iterator[Item]:
    for which, targets in _targets(space).items():
        for source, target in targets.items():
            if target != source:
                yield Item(f"data.{which}", Path(source), target)
    if space.metric_file is not None:
        metric = space.metric_file
        yield Item("objective.python", metric, f"objective/{metric.name}")
    if (template := space.template_file) is not None:
        yield Item("data.chat_template", template, f"data/chat_template/{template.name}")
    model = space.folder / space.settings.base_model
    if not model.is_dir():
        return
    suffixes = (*MODEL_SUFFIXES, *((".py",) if space.settings.trust_remote_code else ()))
    for file in sorted(model.iterdir()):
        if file.is_file() and file.suffix in suffixes and not file.name.startswith("."):
            yield Item("base_model", file, f"{_model_target(space)}/{file.name}")


def _targets(space: Space) -> dict[Split, dict[str, str]]:
    """Data of a split → within the package; what is no local file stays where it is."""
    found: dict[Split, dict[str, str]] = {which: {} for which in SPLITS}
    for which, targets in found.items():
        sources = dict.fromkeys(space.sources(which))
        files = [source for source in sources if Path(source).is_file()]
        names = Counter(Path(file).name for file in files)
        for number, source in enumerate(sources):
            path = Path(source)
            inner = f"{number}/" if names[path.name] > 1 else ""  # of two folders
            targets[source] = f"data/{which}/{inner}{path.name}" if source in files else source
    return found


def _data_targets(space: Space) -> dict[str, str | list[str]]:
    """Of each split with local files: what the packed space says in place of `data`."""
    moved: dict[str, str | list[str]] = {}
    for which, targets in _targets(space).items():
        given = space.source(which)
        if any(source != target for source, target in targets.items()):
            moved[f"data.{which}"] = (
                [targets[one] for one in given] if isinstance(given, list) else targets[str(given)]
            )
    return moved


def _model_target(space: Space) -> str:
    return f"base_model/{(space.folder / space.settings.base_model).resolve().name}"


def _check_size(path: Path, items: list[Item]) -> None:
    total = sum(item.n_bytes for item in items)
    if total <= MOST_BYTES:
        return
    largest = sorted(items, key=lambda item: item.n_bytes, reverse=True)[:3]
    lines = [f"  {i.key}: {i.source} has {megabytes(i.n_bytes)}" for i in largest]
    mends = []
    if any(item.key.startswith("data.") for item in largest):
        mends.append(
            "Put the data where the cluster can read it: s3://bucket/rows.jsonl, "
            "gs://bucket/rows.jsonl, or file:///shared/rows.jsonl on a file system that the "
            "cluster shares."
        )
    if any(item.key == "base_model" for item in largest):
        mends.append("Name the model by its hub id, or as file:///shared/model.")
    raise SpaceError(
        f"{path}: at most "
        f"{megabytes(MOST_BYTES)} can go "
        f"with a job, but this space's "
        f"files have {megabytes(total)}.\n" + "\n".join([*lines, *(f"  {mend}" for mend in mends)])
    )
