"""The forward passes of one rank: its own weight samples, each on its own view of the batch.

Augmentation and dropout are keyed by step, sample and position in the global batch, so a pass gives
the same outputs whenever it is run again and wherever the sample lives.

Letters: S samples of one pass, B examples of this rank.
"""

import contextlib
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from hpc_bnn.bayes.dropout import KeyedDropout, generator_states
from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.bayes.noise import Purpose, Stream, uniforms
from hpc_bnn.parallel.world import World
from hpc_bnn.train.phases import Phases
from hpc_bnn.train.unroll import Unroll

Views = Literal["per_sample", "per_rank", "shared"]
Precision = Literal["float32", "bf16", "float64"]
_Context = contextlib.AbstractContextManager[object]


class Augment(Protocol):
    """A random view of a batch as a pure function of uniforms (``hpc_bnn.data.augment``)."""

    def count(self, shape: tuple[int, ...]) -> int:
        """Return the uniforms needed for one example of ``shape``."""

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """Return the view of ``x`` (B, ...) under ``u`` (B, count)."""


def cut(own: range, samples_per_pass: int) -> list[range]:
    """Return the samples of each pass over a rank's own; the last may have fewer."""
    return [own[i : i + samples_per_pass] for i in range(0, len(own), samples_per_pass)]


class Passes:
    """This rank's weight samples, cut into forward passes.

    Iterating gives the global sample indices of each pass.

    Parameters
    ----------
    samples
        K, weight samples over the whole grid.
    samples_per_pass
        Samples that share one pass by ``torch.vmap``.
    views
        ``per_sample``: every weight sample sees its own random view of the batch; ``per_rank``: the
        samples of a sample rank share one, so the run depends on the grid; ``shared``: all do.
    phases
        Clock that is told when weights are drawn.
    unroll
        Runs the network along the steps of a forecast; None: inputs are of one step.

    Raises
    ------
    ValueError
        If the sample ranks do not share the samples equally, or dropout meets several a pass.
    """

    def __init__(
        self,
        posterior: Gaussian,
        world: World,
        *,
        samples: int,
        samples_per_pass: int,
        augment: Augment | None,
        views: Views,
        precision: Precision,
        phases: Phases,
        unroll: Unroll | None = None,
    ) -> None:
        if samples_per_pass < 1:
            raise ValueError(f"posterior.samples_per_pass = {samples_per_pass}: must be at least 1")
        self.parts = cut(world.grid.own_samples(samples), samples_per_pass)
        self._posterior, self._world = posterior, world
        self._augment, self._views, self._precision = augment, views, precision
        self._phases, self._unroll = phases, unroll
        self._drops = self._has_dropout()

    def run(self, x: Tensor, step: int, part: range) -> Tensor:
        """Return the outputs (S, B, ...) of one pass over ``x`` (B, ...); of n steps of a forecast
        (S, B n, ...).
        """
        examples = len(x)
        x, views = self._augmented(x, step, part)
        with self._phases.within("draw"):
            weights = self._posterior.draw(self._posterior.draws(step, part))

        def network(x: Tensor, views: bool) -> Tensor:
            with self._autocast():
                return self._posterior.apply_weights(x, weights, views=views)

        def forward(dropout: KeyedDropout | None = None) -> Tensor:
            if self._unroll is None:
                return network(x, views)

            def contexts() -> tuple[_Context, _Context]:
                nothing = contextlib.nullcontext()
                return nothing, nothing if dropout is None else dropout.again()

            return self._unroll(x, network, views=views, contexts=contexts)

        if len(part) > 1:
            return forward()  # torch.vmap refuses random layers
        if not self._drops:
            # KeyedDropout looks at every call of the network, a tenth of a small one's time.
            before = generator_states(x.device)
            outputs = forward()
            self._drops = generator_states(x.device) != before
        if self._drops:
            with self._dropout(step, part[0], examples) as dropout:
                outputs = forward(dropout)
        return outputs

    def first_draw(self, step: int) -> Tensor:
        """Return the first weights that this rank draws at ``step``."""
        with torch.no_grad():
            drawn = self._posterior.draw(self._posterior.draws(step, self.parts[0][:1]))
        return next(iter(drawn.values()))

    def _augmented(self, x: Tensor, step: int, part: range) -> tuple[Tensor, bool]:
        if self._augment is None:
            return x, False
        if self._views == "shared":
            return self._view(x, step, 0), False
        if self._views == "per_rank":
            return self._view(x, step, self._world.grid.sample_rank), False
        return torch.stack([self._view(x, step, sample) for sample in part]), True

    def _view(self, x: Tensor, step: int, sample: int) -> Tensor:
        assert self._augment is not None
        count = self._augment.count(tuple(x.shape[1:]))
        stream = Stream(self._posterior.seed, Purpose.AUGMENTATION, step, sample)
        first = self._world.grid.data_rank * len(x)
        return self._augment(
            x, uniforms(stream, (len(x), count), offset=first * count, device=x.device)
        )

    def _dropout(self, step: int, sample: int, examples: int) -> KeyedDropout:
        stream = Stream(self._posterior.seed, Purpose.DROPOUT, step, sample)
        first = self._world.grid.data_rank * examples
        return KeyedDropout(stream, examples=examples, first_example=first)

    def _autocast(self) -> _Context:
        if self._precision != "bf16":
            return contextlib.nullcontext()
        return torch.autocast(self._world.device.type, dtype=torch.bfloat16)

    def _has_dropout(self) -> bool:
        drops = [
            name
            for name, layer in self._posterior.module.named_modules()
            if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0
        ]
        if drops and len(self.parts[0]) > 1:
            raise ValueError(
                f"posterior.samples_per_pass: {drops[0]} is dropout, which needs the weight "
                "samples one at a time; set samples_per_pass to 1"
            )
        return bool(drops)
