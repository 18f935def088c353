"""What a graph was recorded with and does not read again: where tensors lie, what is trained, and
plain attributes of network and loss.

It is asked for at every step, so no tree is walked unless something was added.
"""

from collections.abc import Hashable
from itertools import chain

from torch import nn

PLAIN = (bool, int, float, str)


class Unchanged:
    """Looks at modules, which are of this package; the networks in them may be of anyone."""

    def __init__(self, *modules: nn.Module) -> None:
        self._modules = modules
        self._walk()

    def _walk(self) -> None:
        layers = list(chain.from_iterable(module.modules() for module in self._modules))
        self._children = [layer._modules for layer in layers]
        self._tables = [t for layer in layers for t in (layer._parameters, layer._buffers)]
        self._attributes = [(vars(layer), self._plain(layer)) for layer in layers]
        self._before = self._structure()

    def _plain(self, layer: nn.Module) -> list[str]:
        """Return the names of plain attributes; what a method notes for itself, such as that it has
        warned, is private and does not count.
        """
        names = [key for key, value in vars(layer).items() if type(value) in PLAIN]
        return [key for key in names if not (layer in self._modules and key.startswith("_"))]

    def _structure(self) -> tuple[list[int], list[int]]:
        """Return the layers, and how many attributes each of them has."""
        children = chain.from_iterable(children.values() for children in self._children)
        return list(map(id, children)), [len(own) for own, _ in self._attributes]

    def state(self) -> Hashable:
        """Return what is another where a graph does not serve any more."""
        if self._structure() != self._before:
            self._walk()
        tensors = chain.from_iterable(table.values() for table in self._tables)
        return (
            tuple(self._before[0]),
            tuple((t.data_ptr(), t.requires_grad) for t in tensors if t is not None),
            tuple([own.get(key) for own, keys in self._attributes for key in keys]),
        )
