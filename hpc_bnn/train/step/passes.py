"""The forward passes of one rank: its own weight samples, each on its own view of the batch.

Augmentation and dropout are keyed by step, sample and position in the global batch, so a pass gives
the same outputs whenever it is run again and wherever the sample lives.

Letters: S samples of one pass, B examples of this rank.
"""

import contextlib
from collections.abc import Iterator
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from hpc_bnn.bayes.dropout import KeyedDropout, generator_states
from hpc_bnn.bayes.inputs import Inputs, count_examples
from hpc_bnn.bayes.noise import Purpose, Stream, uniforms
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.parallel.world import World
from hpc_bnn.train.step.one_pass import Pass, has_reentrant_checkpoint
from hpc_bnn.train.step.phases import Phases
from hpc_bnn.train.step.unroll import Unroll

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


class _Seized(Exception):
    """Carries the input of a network out of a pass."""

    def __init__(self, x: Inputs) -> None:
        super().__init__("the input of the network")
        self.x = x


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
        posterior: Posterior,
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
        self._reentrant: bool | None = None  # not known before the first pass

    def run(self, x: Inputs, step: int, part: range) -> Pass:
        """Run one pass over ``x`` (B, ...): outputs (S, B, ...); of n steps of a forecast (S, B n,
        ...).
        """
        with self._phases.within("draw"):
            drawn = self._posterior.sample(self._posterior.key(step, part))
        again = None  # torch.vmap refuses random layers
        if len(part) == 1 and self._drops:
            again = self._dropout(step, part[0], count_examples(x))
        before = generator_states(self._world.device) if self._looks_for_dropout(part) else None
        one = Pass(self._posterior, drawn, again, reentrant=bool(self._reentrant))
        one.outputs = self._forward(*self._augmented(x, step, part), one)
        if before is not None and generator_states(self._world.device) != before:
            self._drops = True
            return self.run(x, step, part)
        if self._reentrant is None and one.outputs.requires_grad:
            self._reentrant = has_reentrant_checkpoint(one.outputs)
            if self._reentrant:
                return self.run(x, step, part)
        return one

    def check(self, x: Inputs, step: int) -> list[str]:
        """Raise ImpureError unless the network is a pure function of its weights and input; return
        the names of drawn weights that no output depends on (``hpc_bnn.bayes.purity``).
        """
        part = self.parts[0][:2]
        own = self._input_of_network(x, step, part[:1])

        @contextlib.contextmanager
        def surroundings() -> Iterator[KeyedDropout | None]:
            dropout = self._dropout(step, part[0], count_examples(own)) if len(part) == 1 else None
            with self._autocast(), dropout or contextlib.nullcontext():
                yield dropout

        key = self._posterior.key(step, part)
        return self._posterior.check(key, own, gradients=True, surroundings=surroundings)

    def _input_of_network(self, x: Inputs, step: int, part: range) -> Inputs:
        """Return what the network gets in the first of its calls in a pass."""

        def seize(_: nn.Module, arguments: tuple[Inputs, ...]) -> None:
            raise _Seized(arguments[0])

        handle = self._posterior.module.register_forward_pre_hook(seize)
        try:
            with torch.no_grad():
                drawn = self._posterior.sample(self._posterior.key(step, part))
                self._forward(*self._augmented(x, step, part), Pass(self._posterior, drawn, None))
        except _Seized as seized:
            return seized.x
        finally:
            handle.remove()
        raise AssertionError("a pass that does not call the network")

    def _forward(self, x: Inputs, views: bool, one: Pass) -> Tensor:
        """Return the outputs (S, B, ...) of a pass for ``x`` (B, ...), or with ``views`` (S, B,
        ...).
        """
        dropout = one.dropout

        def network(x: Inputs, views: bool) -> Tensor:
            with self._autocast():
                return self._posterior.apply_weights(x, one.weights, views=views)

        def contexts() -> tuple[_Context, _Context]:
            nothing = contextlib.nullcontext()
            return nothing, nothing if dropout is None else dropout.again()

        with dropout or contextlib.nullcontext():
            if self._unroll is None:
                return network(x, views)
            return self._unroll(x, network, views=views, contexts=contexts)

    def _looks_for_dropout(self, part: range) -> bool:
        """Tell whether a pass runs without keyed dropout, which looks at every call of the network:
        a tenth of a small one's time.
        """
        return len(part) == 1 and not self._drops

    def first_draw(self, step: int) -> Tensor:
        """Return the first weights that this rank draws at ``step``; where none are drawn, the
        index of its first sample.
        """
        first = self.parts[0][:1]
        with torch.no_grad():
            drawn = self._posterior.sample(self._posterior.key(step, first))
        return next(iter(drawn.values()), torch.tensor(first[0]))

    def _augmented(self, x: Inputs, step: int, part: range) -> tuple[Inputs, bool]:
        if self._augment is None:
            return x, False
        if not isinstance(x, Tensor):
            raise ValueError(
                f"augment: x is a {type(x).__name__}; only a single tensor (B, ...) is augmented"
            )
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

    def _dropout(self, step: int, sample: int, examples: int) -> KeyedDropout | None:
        key, first = self._posterior.key(step, [sample]), self._world.grid.data_rank * examples
        return self._posterior.dropout(key, examples=examples, first_example=first)

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
