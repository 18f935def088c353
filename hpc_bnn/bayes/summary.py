"""What of a posterior is random and what is not, layer by layer: ``posterior.summary()``."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch import nn

from hpc_bnn.bayes.dropout import dropping_layers
from hpc_bnn.bayes.selection import owner


@dataclass(frozen=True)
class LayerSummary:
    """The parameters of one layer.

    Attributes
    ----------
    layer, kind
        Its name in the network, "" for the network itself, and its class.
    numbers, random, frozen
        How many numbers its parameters hold, how many of these are drawn, and how many neither
        drawn nor trained.
    """

    layer: str
    kind: str
    numbers: int
    random: int
    frozen: int

    @property
    def state(self) -> str:
        """In a word: random, deterministic, frozen, or partly random."""
        if self.random:
            return "random" if self.random == self.numbers else "partly random"
        return "frozen" if self.frozen == self.numbers else "deterministic"


@dataclass(frozen=True)
class Summary:
    """What a posterior draws; printed as a table.

    Attributes
    ----------
    method, members
        The class of the posterior; its members, None where it has none.
    layers
        In the order of the network, those with parameters.
    dropping
        Number of layers whose dropout is random in predictions too.
    """

    method: str
    members: int | None
    layers: tuple[LayerSummary, ...]
    dropping: int = 0

    @property
    def numbers(self) -> int:
        """Numbers of the network's parameters, each once."""
        return sum(each.numbers for each in self.layers)

    @property
    def random(self) -> int:
        """How many of them are drawn."""
        return sum(each.random for each in self.layers)

    def __str__(self) -> str:
        """Return the table."""
        return "\n".join(self._lines())

    __repr__ = __str__

    def _lines(self) -> Iterator[str]:
        share = f" ({100 * self.random / self.numbers:.3g} %)" if self.numbers else ""
        yield f"{self.method}: {self.random:,} of {self.numbers:,} numbers are random{share}"
        if self.members is not None:
            yield f"{self.members} members, each with numbers of its own"
        if self.dropping:
            yield f"random are the masks of {self.dropping} dropout layers"
        rows = [
            (each.layer or "(network)", each.kind, f"{each.numbers:,}", each.state)
            for each in self.layers
        ]
        head = ("layer", "kind", "numbers", "")
        wide = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        for layer, kind, count, state in (head, *rows):
            line = f"  {layer:{wide[0]}s}  {kind:{wide[1]}s}  {count:>{wide[2]}s}  {state}"
            yield line.rstrip()
        fixed = [each for each in self.layers if not each.random]
        if fixed and self.random:
            listed = ", ".join(f"{each.layer or each.kind} ({each.kind})" for each in fixed[:4])
            more = f" and {len(fixed) - 4} more" if len(fixed) > 4 else ""
            yield f"the same in every weight sample: {listed}{more}; random=['*'] draws all"


def summarise(
    module: nn.Module, names: Collection[str], *, method: str, members: int | None
) -> Summary:
    """Return the summary of a posterior that draws ``names`` of ``module``."""
    layers: dict[str, LayerSummary] = {}
    for name, parameter in module.named_parameters():
        layer, leaf = owner(module, name)
        path = name.removesuffix(leaf).removesuffix(".")
        size, drawn = parameter.numel(), name in names
        before = layers.get(path, LayerSummary(path, type(layer).__name__, 0, 0, 0))
        layers[path] = LayerSummary(
            path,
            before.kind,
            before.numbers + size,
            before.random + size * drawn,
            before.frozen + size * (not drawn and not parameter.requires_grad),
        )
    dropping = 0 if names else len(dropping_layers(module))
    return Summary(method, members, tuple(layers.values()), dropping)
