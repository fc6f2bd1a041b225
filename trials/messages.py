"""What a worker says to the driver."""

from dataclasses import dataclass

from trials.config import EvalPoint, TrialResult


@dataclass(frozen=True, slots=True)
class Loaded:
    import_seconds: float
    load_seconds: float


@dataclass(frozen=True, slots=True)
class Broken:
    """The worker cannot work: the base model could not be loaded."""

    cause: str
    log: str


@dataclass(frozen=True, slots=True)
class Started:
    number: int


@dataclass(frozen=True, slots=True)
class Stepped:
    """How far a trial has come."""

    number: int
    step: int
    n_steps: int
    """Of its whole run."""


@dataclass(frozen=True, slots=True)
class Reported:
    """A trial has evaluated; it waits for the verdict."""

    number: int
    point: EvalPoint


@dataclass(frozen=True, slots=True)
class Ended:
    number: int
    result: TrialResult
    is_clean: bool
    """Whether the base model was given back as it was; if not, the process must go."""


Event = Loaded | Broken | Started | Stepped | Reported | Ended
