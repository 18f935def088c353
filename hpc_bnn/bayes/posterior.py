"""A distribution over the weights of a module: what every method is to the rest of the program.

Parameters are *shared*, one for all weight samples, or *per-sample*, with a row of its own for each
one: then a rank holds the rows of its own samples.

Letters: S samples, B batch, K samples over the whole grid.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import ClassVar

import torch
from torch import Tensor, nn

from hpc_bnn.bayes.batchnorm import refuse_running_statistics
from hpc_bnn.bayes.dropout import KeyedDropout
from hpc_bnn.bayes.inputs import Inputs
from hpc_bnn.bayes.mean_field import MeanField
from hpc_bnn.bayes.noise import Key, Purpose, Stream
from hpc_bnn.bayes.predictor import Predictor
from hpc_bnn.bayes.predictor import Weights as Weights
from hpc_bnn.bayes.rows import Rows, gather_rows
from hpc_bnn.bayes.summary import Summary, summarise
from hpc_bnn.group import Group


def row_key(name: str) -> str:
    """Return the name of a weight in a ParameterDict, where it may not hold dots; slashes keep the
    path readable in state dicts.
    """
    return name.replace(".", "/")


def copy_tensors(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Copy tensors by name; raise ValueError unless both hold the same names and shapes."""
    for name in sorted(source.keys() ^ target.keys()):
        raise ValueError(f"{name} is {'missing from it' if name in target else 'not known here'}")
    for name, tensor in target.items():
        if source[name].shape != tensor.shape:
            raise ValueError(
                f"{name} is {tuple(source[name].shape)} in it, {tuple(tensor.shape)} here"
            )
    for name, tensor in target.items():
        tensor.copy_(source[name])


def _network_tensors(posterior: "Posterior") -> dict[str, Tensor]:
    """Return parameters and buffers of the network by their full names, tied ones once."""
    network = posterior.module
    tensors = chain(network.named_parameters(), network.named_buffers())
    return {f"module.{name}": tensor for name, tensor in tensors}


class Posterior(Predictor):
    """Runs ``module`` on drawn weights.

    A method implements ``sample`` and ``complexity``, and whatever else differs from here. The
    keyword arguments of its constructor are its options in a settings file, but for ``module``,
    ``seed`` and ``samples`` (K), which the program gives; one called ``keep_...`` trades memory for
    time and never changes the answer.

    Parameters
    ----------
    module
        The network; not copied.
    names
        Its parameters that ``sample`` draws; may be none.
    seed
        Key of all weight draws; the same on every rank.
    members
        K, where there is a fixed number of weight samples; None: as many as one asks for.

    Attributes
    ----------
    own_samples
        The weight samples whose rows per-sample parameters hold here: all until ``hold``.
    predicts_collected
        Whether it predicts with what ``collect`` took up, not with the parameters themselves.
    draws
        Whether a sample of a prediction is drawn, so that it can be drawn anew, not stored.
    """

    predicts_collected: ClassVar[bool] = False
    draws: ClassVar[bool] = True

    def __init__(
        self, module: nn.Module, names: Sequence[str], *, seed: int, members: int | None = None
    ) -> None:
        super().__init__(module, names, seed=seed)
        refuse_running_statistics(module)
        self.members, self.own_samples = members, range(members or 0)

    @abstractmethod
    def complexity(self) -> Tensor:
        """Return the complexity term as a float64 scalar: a KL; where parameters are per-sample,
        the mean of -log prior over the members that this process holds; 0 where there is none.
        """

    def mean(self) -> Weights:
        """Return the means of drawn weights by name (*shape), where they are not the parameters."""
        return {}

    def dropout(self, key: Key, *, examples: int, first_example: int) -> KeyedDropout | None:
        """Return what replaces the dropout of a training pass of one sample over ``examples`` of
        the batch, the first of which is ``first_example`` of the global one; None: nothing.
        """
        stream = Stream(key.seed, Purpose.DROPOUT, key.step, key.samples[0], key.shift)
        return KeyedDropout(stream, examples=examples, first_example=first_example)

    def per_sample(self) -> Iterable[str]:
        """Return the names of parameters and buffers that have a row for each weight sample."""
        return ()

    def initialise(self) -> None:
        """Make what per-sample parameters start from, where that is still to be done: a step calls
        it once what is shared is the same on all ranks.
        """

    @torch.no_grad()
    def start_from(self, other: "Posterior") -> None:
        """Start with the weights of ``other``, a trained posterior over the same network: with all
        that it is where it is of this method, else with the network of its mean.

        Raises
        ------
        ValueError
            If it is of another network, or has members where this method has none.
        """
        if type(other) is type(self):
            copy_tensors(other.state_dict(), self.state_dict())
            return
        if other.members is not None:
            raise ValueError(
                f"it has {other.members} members, and {type(self).__name__} starts from one "
                "network; start from a run without members"
            )
        mean = {f"module.{name}": weight for name, weight in other.mean().items()}
        copy_tensors(_network_tensors(other) | mean, _network_tensors(self))

    def scales(self) -> Iterable[str]:
        """Return the names of parameters that are scales of q: no weight decay pulls at them."""
        return ()

    def mean_field(self) -> MeanField | None:
        """Return the parameters of q where it is a mean-field Gaussian; None: it is not."""
        return None

    def optimizer(self, lr: float) -> torch.optim.Optimizer | None:
        """Return what moves the parameters where the method is a way of moving them, such as a
        sampler; None: any optimizer may.
        """
        return None

    def begin(self, optimizer: torch.optim.Optimizer, *, num_examples: int) -> None:
        """Get ready for steps of ``optimizer`` on a training set of so many examples; raise
        ValueError where only an optimizer of the method will do, and this is another.
        """

    def collect(self, step: int) -> None:
        """Take up what the optimizer made of the parameters in ``step``."""

    def diagnostics(self, inputs: Callable[[], Inputs], axis: Group) -> dict[str, object]:
        """Collective over the sample axis: return figures of how good the weight samples are, as
        plain values; ``inputs``, maybe collective, gives examples (B, ...) to judge by.
        """
        return {}

    def summary(self) -> Summary:
        """Return, to be printed, which layers are random and which are not, with counts."""
        method = type(self).__name__
        return summarise(self.module, self.names, method=method, members=self.members)

    def check_samples(self, samples: int, *, samples_per_pass: int) -> None:
        """Raise ValueError unless training can draw so many weight samples."""
        if self.members is not None and samples != self.members:
            raise ValueError(
                f"posterior.samples = {samples}: this posterior has {self.members} members, each a "
                "weight sample of every step"
            )
        if not self.names and samples_per_pass > 1:
            raise ValueError(
                f"posterior.samples_per_pass = {samples_per_pass}: {type(self).__name__} draws no "
                "weights, so its samples run one at a time; set samples_per_pass to 1"
            )

    def prediction_samples(self, wish: int) -> int:
        """Return how many weight samples there are to predict with, at most ``wish``."""
        return wish if self.members is None else min(wish, self.members)

    def saved(self) -> dict[str, Tensor | Rows]:
        """Return parameters and buffers by name, as a checkpoint holds them."""
        rows = set(self.per_sample())
        return {
            name: Rows(tensor, self.own_samples) if name in rows else tensor
            for name, tensor in self.state_dict().items()
        }

    @torch.no_grad()
    def hold(self, samples: range) -> None:
        """Keep the rows of ``samples`` only, of all that is per-sample; raise ValueError where some
        are not held.
        """
        if self.members is None or samples == self.own_samples:
            return
        rows = self.places(samples)
        for name in self.per_sample():
            tensor = attrgetter(name)(self)
            tensor.data = tensor.data[rows]
        self.own_samples = samples

    @torch.no_grad()
    def gather(self, sample_axis: Group) -> None:
        """Collective over the sample axis: hold all rows, to predict; training cannot go on."""
        if self.own_samples == range(self.members or 0):
            return
        for name, value in self.saved().items():
            if isinstance(value, Rows):
                tensor = attrgetter(name)(self)
                tensor.data = gather_rows(value, sample_axis, name=name).to(tensor.device)
        self.own_samples = range(self.members or 0)

    def places(self, samples: Iterable[int]) -> list[int]:
        """Return where the rows of ``samples`` are in what is per-sample; raise ValueError where
        they are not held here.
        """
        first, count = self.own_samples.start, len(self.own_samples)
        rows = [sample - first for sample in samples]
        if rows and not (min(rows) >= 0 and max(rows) < count):
            raise ValueError(
                f"weight samples {min(rows) + first} to {max(rows) + first}: this process holds "
                f"the members {first} to {first + count - 1} of {self.members}; to predict with "
                "all of them: posterior.gather(world.sample_axis)"
            )
        return rows
