"""A count that a checkpoint holds, as a buffer, and that the host knows without asking a GPU."""

from torch import Tensor


class Counter:
    """Reads a buffer of one whole number, and remembers it until something else writes to it."""

    def __init__(self) -> None:
        self._tensor: Tensor | None = None
        self._version, self._number = -1, 0

    def read(self, tensor: Tensor) -> int:
        """Return the number in ``tensor``."""
        if tensor is not self._tensor or tensor._version != self._version:
            self._remember(tensor, int(tensor))
        return self._number

    def write(self, tensor: Tensor, number: int) -> None:
        """Put ``number`` into ``tensor``."""
        tensor.fill_(number)
        self._remember(tensor, number)

    def _remember(self, tensor: Tensor, number: int) -> None:
        self._tensor, self._version, self._number = tensor, tensor._version, number
