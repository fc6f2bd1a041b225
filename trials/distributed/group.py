"""`Group`: the processes that share a trial."""

from typing import Protocol, TypeVar

import torch
import torch.distributed

T = TypeVar("T")


class Group(Protocol):
    """The processes of a trial, seen from one of them."""

    rank: int
    """0 for the worker's own, which reports and writes."""
    size: int

    def sum(self, tensor: torch.Tensor) -> None:
        """Put the sum over all processes in place of a tensor of floats."""

    def smallest(self, number: float) -> float:
        """Return the smallest of the numbers that the processes give."""

    def broadcast(self, value: T) -> T:
        """Return what the first process gives."""

    def gather(self, value: T) -> list[T]:
        """Return what the processes give, in their order."""


class Alone:
    """A trial in one process."""

    rank, size = 0, 1

    def sum(self, tensor: torch.Tensor) -> None: ...

    def smallest(self, number: float) -> float:
        return number

    def broadcast(self, value: T) -> T:
        return value

    def gather(self, value: T) -> list[T]:
        return [value]


ALONE: Group = Alone()
