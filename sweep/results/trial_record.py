"""All that is known of one trial: what its study holds, and what lies in its folder."""

from dataclasses import dataclass
from pathlib import Path

from sweep.errors import NoWinner, StudyError
from sweep.folder import layout
from sweep.results.conclusion import conclude
from sweep.results.reading import StoredSweep
from sweep.study.ended import StoredTrial
from sweep.text.trials import an
from trials.config import EvalPoint, ModelConfig, Objective, TrialConfig, TrialResult
from trials.trial_folder import ADAPTER, CONFIG, LOG, read_json, result_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A trial of a stored sweep, with what lies in its folder."""

    sweep: StoredSweep
    trial: StoredTrial
    config: TrialConfig | None
    """None: config.json is not there, or another version wrote it."""
    adapter: Path | None
    """None: deleted, since better ones came, or it never had one."""

    @property
    def folder(self) -> Path:
        """The trial's own."""
        return layout.trial_dir(self.sweep.folder, self.trial.number)

    @property
    def log(self) -> Path:
        """What its process has printed."""
        return self.folder / LOG

    @property
    def result(self) -> TrialResult | None:
        """None: it has not ended."""
        return result_of(self.trial.result) if self.trial.result else None

    @property
    def curve(self) -> list[EvalPoint]:
        """Empty before its end: of a running trial the study holds the objective alone."""
        return [EvalPoint(**point) for point in self.trial.points]

    @property
    def best(self) -> EvalPoint | None:
        """The evaluation whose adapter was kept."""
        return self.result.best if self.result else None

    def needed_config(self) -> TrialConfig:
        """Return the configuration.

        Raises:
            StudyError: It is not there, or another version wrote it.
        """
        if self.config is None:
            raise StudyError(
                f"{self.folder / CONFIG}: must be the configuration of trial {self.trial.number}, "
                f"but is missing or from another version. Use the version that ran this sweep."
            )
        return self.config


def record_of(sweep: StoredSweep, number: int | None = None) -> Record:
    """Read what lies in the folder of a trial.

    Args:
        number: None: the winner (`sweep.results.conclusion`).

    Raises:
        NoWinner: There is none.
        StudyError: There is no such trial.
    """
    if number is None and (found := conclude(sweep)) is not None:
        number = found.winner.number
    if number is None:
        raise NoWinner(
            f"{sweep.name}: no trial has {an(sweep.objective)} that counts yet "
            f"({len(sweep.trials)} trials so far). See sweep status {sweep.folder.name}."
        )
    by_number = {trial.number: trial for trial in sweep.trials}
    if number not in by_number:
        there = f"The last is {max(by_number)}." if by_number else "There is none yet."
        raise StudyError(f"{sweep.folder}: no trial {number}. {there}")
    folder, best_dir = layout.trial_dir(sweep.folder, number), sweep.folder / layout.BEST
    config = _config(folder) or _of(number, _config(best_dir))
    adapters = [folder / ADAPTER]
    if config is not None and _of(number, _config(best_dir)):
        adapters.append(best_dir / ADAPTER)
    return Record(
        sweep=sweep,
        trial=by_number[number],
        config=config,
        adapter=next((p for p in adapters if (p / "adapter_config.json").exists()), None),
    )


def _config(folder: Path) -> TrialConfig | None:
    holds, mend = "a trial's configuration", "Restore it, or delete it to go on without it."
    written = read_json(folder / CONFIG, dict, holds=holds, mend=mend, error=StudyError)
    if written is None:
        return None
    try:
        objective = Objective(**written.get("objective", {}))  # older versions wrote none
        model = ModelConfig(**written["model"])
        return TrialConfig(**{**written, "model": model, "objective": objective})
    except (ValueError, KeyError, TypeError):  # of another version
        return None


def _of(number: int, config: TrialConfig | None) -> TrialConfig | None:
    return config if config is not None and config.number == number else None
