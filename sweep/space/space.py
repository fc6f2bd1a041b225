"""`Space`: a search space that has been checked."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from sweep.space.domains import Choices, Domain, Range, TimesRank
from sweep.space.hyperparameters import Value
from sweep.space.objective import metric_path, objective_of
from sweep.space.settings import Settings
from sweep.space.usual_points import Start
from sweep.text.numbers import counted
from trials.config import Objective, Quantization
from trials.data.addresses import is_address, local_path
from trials.models.checkpoint import Form, config_of, form_in
from trials.rendering import chat_templates

Split = Literal["train", "eval", "test"]
SPLITS: tuple[Split, ...] = ("train", "eval", "test")


@dataclass(frozen=True, slots=True)
class Space:
    """A checked space: what is searched, what is fixed, how, and for how long."""

    settings: Settings
    domains: dict[str, Domain]
    """Of every hyperparameter, the fixed ones included, in the order of the table."""
    epochs_passed_through: Domain | None
    """The epochs that the file searches, where one run to the most of them covers all."""
    starts: tuple[Start, ...]
    """Points that are tried first: those of earlier sweeps, then the file's, or the usual ones."""
    folder: Path
    """The folder of the file; relative paths begin here."""
    text: str = field(repr=False)
    """The file as run, with what was set on the command line."""

    @property
    def name(self) -> str:
        """The study, the MLflow experiment, the folder under output."""
        return self.settings.name

    def named(self, name: str) -> "Space":
        """The same under another name."""
        return replace(self, settings=self.settings.model_copy(update={"name": name}))

    @property
    def n_points(self) -> float:
        """Points of the space; infinite when a range is continuous."""
        return math.prod(size_of(domain) for domain in self.domains.values())

    @property
    def objective(self) -> Objective:
        return objective_of(self.settings.objective)

    @property
    def metric_file(self) -> Path | None:
        """The user's own metric; None: a built-in one."""
        python = self.settings.objective.python
        return None if python is None else metric_path(python, self.folder).resolve()

    @property
    def template_file(self) -> Path | None:
        """The user's own chat template; None: a known one, or the tokenizer's."""
        given = self.settings.data.chat_template
        is_file = given is not None and given.endswith(chat_templates.SUFFIX)
        return (self.folder / given).resolve() if given is not None and is_file else None

    @property
    def chat_template(self) -> str | None:
        """The text of the chat template; None: the tokenizer's own."""
        if self.template_file is not None:
            return self.template_file.read_text(encoding="utf-8")
        name = self.settings.data.chat_template
        return None if name is None else chat_templates.named(name)

    @property
    def base_config(self) -> dict[str, Any] | None:
        """The base model's config.json; None: not to be read here."""
        given = local_path(self.settings.base_model)
        beside = self.folder / given
        return config_of(str(beside) if beside.is_dir() else given, self.settings.revision)

    @property
    def checkpoint(self) -> Form | None:
        """The form of a base model that is quantised already; None: plain weights."""
        config = self.base_config
        return None if config is None else form_in(config)

    @property
    def quantization(self) -> Quantization:
        """As the file says; where it does not, the checkpoint's own."""
        if self.settings.quantization is not None:
            return self.settings.quantization
        form = self.checkpoint
        return (form and form.loads_as) or "nf4"

    def may_be(self, name: str, value: Value) -> bool:
        """Whether a trial may have this value, such as true of `use_dora`."""
        return value in self.domains[name]  # type: ignore[operator]

    @property
    def budget_in_words(self) -> str:
        """`24 trials, 8 hours at most; until 10 trials in a row had no better eval loss`."""
        budget = self.settings.budget
        limits = {"trial": budget.trials, "hour": budget.hours, "GPU hour": budget.gpu_hours}
        most = [counted(limit, noun) for noun, limit in limits.items() if limit is not None]
        words = [f"{', '.join(most)} at most"] if most else []
        if (n := budget.stop_when_flat) is not None:
            better = self.objective.heading
            words.append(f"until {counted(n, 'trial')} in a row had no better {better}")
        return "; ".join(words)

    @property
    def smallest(self) -> dict[str, float]:
        """The fewest epochs, the shortest max_length, the smallest effective_batch_size."""
        return {
            name: _bound(self.domains[name], min)
            for name in ("epochs", "max_length", "effective_batch_size")
        }

    @property
    def largest(self) -> dict[str, float]:
        """The largest of what decides the memory that a trial needs."""
        return {
            name: _bound(self.domains[name], max)
            for name in ("rank", "max_length", "effective_batch_size", "dropout")
        }

    def source(self, which: Split) -> str | float | list[str] | None:
        """The absolute path or hub id of a split, or a list; or the share held out; None: none."""
        given: str | float | list[str] | None = getattr(self.settings.data, which)
        if isinstance(given, list):
            return [self._located(one) for one in given]
        return self._located(given) if isinstance(given, str) else given

    def sources(self, which: Split) -> list[str]:
        """The same as a list; empty where its rows are held out of train."""
        found = self.source(which)
        return found if isinstance(found, list) else [found] if isinstance(found, str) else []

    def _located(self, given: str) -> str:
        if is_address(given):
            return given
        path = self.folder / given
        # Asked first: a path that leads in a circle cannot be resolved.
        return str(path.resolve()) if path.exists() else given


def size_of(domain: Domain) -> float:
    if isinstance(domain, TimesRank):
        return size_of(domain.factor)
    if isinstance(domain, Choices):
        return len(domain.values)
    if domain.step is None and not domain.is_integer:
        return math.inf
    return math.floor((domain.high - domain.low) / (domain.step or 1) + 1e-9) + 1


def _bound(domain: Domain, pick: Callable[[Iterable[float]], float]) -> float:
    assert not isinstance(domain, TimesRank), "a bound of alpha depends on the rank"
    if isinstance(domain, Range):
        return pick((domain.low, domain.high))
    return pick(float(value) for value in domain.values)
