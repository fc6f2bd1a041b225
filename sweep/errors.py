"""Errors that are told to the user in words."""

from __future__ import annotations


class SpaceError(ValueError):
    """All problems of a space, in words, one to a line."""


class StudyError(ValueError):
    """A study that cannot be opened or continued, in words for the user."""


class StudyAway(ValueError):
    """The study cannot be used, and nobody waits for it; in words for the user."""


class TrackingError(ValueError):
    """An MLflow server or database that cannot be used, in words for the person who named it."""


class ClusterError(ValueError):
    """A cluster, or a job on it, that cannot be used, in words."""


class ExportError(ValueError):
    """Something cannot be exported, in words for the user."""


class NoWinner(ValueError):
    """No trial of a sweep has an eval loss that counts, in words for the user."""


class SweepFailed(RuntimeError):
    """The sweep cannot go on; says why."""
