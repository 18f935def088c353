"""The ranks of a channel as data sets see them (``hpc_bnn.data.ranks``)."""

from collections.abc import Callable
from typing import TypeVar

from hpc_bnn.parallel.channel import Channel
from hpc_bnn.parallel.comms import on_first, together

T = TypeVar("T")


class ChannelRanks:
    """``Ranks`` over a channel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.rank, self.size = channel.rank, channel.size

    def on_first(self, action: Callable[[], T], *, name: str) -> T:
        """Collective: run ``action`` on rank 0 only and return its result on every rank."""
        return on_first(self._channel, action, name=name)

    def together(self, action: Callable[[], T], *, name: str) -> T:
        """Collective: run ``action`` on every rank and return the own result."""
        return together(self._channel, action, name=name)

    def gather(self, value: T, *, name: str) -> list[T]:
        """Collective: return the value of every rank, in rank order."""
        return self._channel.gather_objects(value, name=name)
