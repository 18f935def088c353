"""What a data set may ask of the ranks that read it together: work done once, work shared."""

from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Ranks(Protocol):
    """The ranks of a job. Every method is collective: all ranks call it, or none.

    An action that fails on one rank raises on every rank, so none is left waiting.
    """

    rank: int
    size: int

    def on_first(self, action: Callable[[], T], *, name: str) -> T:
        """Collective: run ``action`` on rank 0 only and return its result on every rank."""

    def together(self, action: Callable[[], T], *, name: str) -> T:
        """Collective: run ``action`` on every rank and return the own result."""

    def gather(self, value: T, *, name: str) -> list[T]:
        """Collective: return the value of every rank, in rank order."""


class Alone:
    """A process by itself."""

    rank = 0
    size = 1

    def on_first(self, action: Callable[[], T], *, name: str) -> T:
        return action()

    def together(self, action: Callable[[], T], *, name: str) -> T:
        return action()

    def gather(self, value: T, *, name: str) -> list[T]:
        return [value]


ALONE = Alone()
