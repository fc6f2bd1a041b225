"""Errors that are told to the user in words."""

from trials.config import UserError


class SpaceError(UserError):
    """All problems of a space, one to a line."""


class StudyError(UserError):
    """A study that cannot be opened or continued."""


class StudyAway(UserError):
    """The study cannot be used, and nobody waits for it."""


class TrackingError(UserError):
    """An MLflow server or database that cannot be used."""


class ClusterError(UserError):
    """A cluster, or a job on it, that cannot be used."""


class ExportError(UserError):
    """Something cannot be exported."""


class NoWinner(UserError):
    """No trial of a sweep has an eval loss that counts."""


class SweepFailed(RuntimeError):
    """The sweep cannot go on; says why."""
