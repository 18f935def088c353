"""The passes of one rank: its own weight samples, each on its own view of the batch.

Augmentation and dropout are keyed by step, sample and position in the global batch, so a pass gives
the same outputs whenever it is run again and wherever the sample lives.

Letters: S samples of one pass, B examples of this rank.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from hpc_bnn.bayes.dropout import KeyedDropout, dropping_layers, generator_states
from hpc_bnn.bayes.inputs import Inputs, count_examples, map_tensors
from hpc_bnn.bayes.noise import Key, Purpose, Stream, uniforms
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.parallel.world import World
from hpc_bnn.train.step.draw import Draw
from hpc_bnn.train.step.input_noise import OnSamples
from hpc_bnn.train.step.one_pass import Pass, as_samples, has_reentrant_checkpoint
from hpc_bnn.train.step.phases import Phases
from hpc_bnn.train.step.settings import StepSettings

LARGEST = 1 << 22  # bytes of what is drawn at once: copies of more take longer than calls

_Context = contextlib.AbstractContextManager[object]
_NOTHING: _Context = contextlib.nullcontext()


class _Seized(Exception):
    """Carries the input of a network out of a pass."""

    def __init__(self, x: Inputs) -> None:
        super().__init__("the input of the network")
        self.x = x


class Passes:
    """This rank's weight samples, cut into forward passes.

    Parameters
    ----------
    phases
        Clock that is told when weights are drawn.

    Attributes
    ----------
    draws
        The passes that share a draw (``hpc_bnn.train.step.draw``), each as its global sample
        indices.
    parts
        All passes.
    looks_for_dropout
        Whether passes look for dropout that is no layer, in the states of torch's generators.

    Raises
    ------
    ValueError
        If the sample ranks do not share the samples equally, or dropout meets several a pass.
    """

    def __init__(
        self, posterior: Posterior, world: World, settings: StepSettings, phases: Phases
    ) -> None:
        together = settings.samples_per_pass
        if together < 1:
            raise ValueError(f"posterior.samples_per_pass = {together}: must be at least 1")
        own = world.grid.own_samples(settings.samples)
        self.parts = [own[first : first + together] for first in range(0, len(own), together)]
        weights = [posterior.module.get_parameter(name) for name in posterior.names]
        one = together * sum(weight.numel() * weight.element_size() for weight in weights)
        count = max(1, LARGEST // one) if one else len(self.parts)
        self.draws = [self.parts[i : i + count] for i in range(0, len(self.parts), count)]
        self.settings, self.phases = settings, phases
        self.looks_for_dropout = True
        self._posterior, self._world = posterior, world
        self._drops = self._has_dropout()
        self._reentrant: bool | None = None  # not known before the first pass
        self._compiled: Callable[[Inputs], object] | None = None
        if settings.compile:
            from hpc_bnn.train.step.compiled import Compiled

            self._compiled = Compiled(posterior.module)

    def draw(self, x: Inputs, step: int, parts: Sequence[range]) -> Draw:
        """Draw the weights of passes over ``x`` that share a draw."""
        with self.phases.within("draw"):
            samples = range(parts[0].start, parts[-1].stop)
            key = replace(
                self._posterior.key(step, samples), preceding=samples.start - self.parts[0].start
            )
            return self._drawn(x, key, parts)

    def _drawn(self, x: Inputs, key: Key, parts: Sequence[range]) -> Draw:
        unroll, draws = self.settings.unroll, 1
        if unroll is not None and self.settings.redraw == "each_step":
            draws = unroll.steps(x)
        drawn = [self._posterior.sample(key.redrawn(lead)) for lead in range(draws)]
        draw = Draw(key.step, parts, drawn)
        if self._reentrant and not draw.has_leaves:
            draw.cut()
        return draw

    def run(self, x: Inputs, draw: Draw, part: range) -> Pass:
        """Run one pass over ``x`` (B, ...): outputs (S, B, ...); of n steps of a forecast (S, B n,
        ...).
        """
        one = self._attempt(x, draw, part)
        while one is None:
            one = self._attempt(x, draw, part)
        return one

    def backward(self, one: Pass, root: Tensor, gradient: Tensor | None = None) -> None:
        """Take a pass backward from ``root``, which came from its outputs or, with its
        ``gradient``, is them.
        """
        with self.phases.within("backward"):
            one.backward(root, gradient)

    def pull(self, draw: Draw) -> None:
        """End a draw whose passes have gone backward."""
        with self.phases.within("backward"):
            draw.pull()

    def _attempt(self, x: Inputs, draw: Draw, part: range) -> Pass | None:
        """Return a pass; None where it showed something of the network that it was run without."""
        dropout = None  # torch.vmap refuses random layers
        if len(part) == 1 and self._drops:
            dropout = self._dropout(self._posterior.key(draw.step, part), count_examples(x))
        # Keyed dropout looks at every call of the network, a tenth of a small one's time.
        looks = self.looks_for_dropout and len(part) == 1 and not self._drops
        before = generator_states(self._world.device) if looks else None
        one = Pass(self._posterior, draw, part, dropout)
        one.each = self._perturbed(*self.augmented(x, draw.step, part), one)
        if before is not None and generator_states(self._world.device) != before:
            self._drops = True
            return None
        if self._reentrant is None and one.outputs.requires_grad:
            self._reentrant = has_reentrant_checkpoint(one.outputs)
            if self._reentrant and not draw.has_leaves:
                draw.cut()
                return None
        return one

    def run_keyed(self, x: Inputs, key: Key, *, views: bool, examples: int) -> Pass:
        """Run one pass of a network that has run before over ``x`` (B, ...) or (S, B, ...), of
        which there are augmented views already; no clock is told.
        """
        part = range(key.samples[0], key.samples[-1] + 1)
        drops = self._drops and len(part) == 1
        dropout = self._dropout(key, examples) if drops else None
        one = Pass(self._posterior, self._drawn(x, key, [part]), part, dropout)
        one.each = self._forward(x, views, one)
        return one

    def check(self, x: Inputs, step: int) -> list[str]:
        """Raise ImpureError unless the network is a pure function of its weights and input; return
        the names of drawn weights that no output depends on (``hpc_bnn.bayes.purity``).
        """
        part = self.parts[0][:2]
        own = self._input_of_network(x, step, part[:1])

        key = self._posterior.key(step, part)

        @contextlib.contextmanager
        def surroundings() -> Iterator[KeyedDropout | None]:
            dropout = self._dropout(key, count_examples(own)) if len(part) == 1 else None
            with self._autocast(), dropout or contextlib.nullcontext():
                yield dropout

        return self._posterior.check(key, own, gradients=True, surroundings=surroundings)

    def _input_of_network(self, x: Inputs, step: int, part: range) -> Inputs:
        """Return what the network gets in the first of its calls in a pass."""

        def seize(_: nn.Module, arguments: tuple[Inputs, ...]) -> None:
            raise _Seized(arguments[0])

        handle = self._posterior.module.register_forward_pre_hook(seize)
        try:
            with torch.no_grad():
                one = Pass(self._posterior, self.draw(x, step, [part]), part, None)
                self._forward(*self.augmented(x, step, part), one)
        except _Seized as seized:
            return seized.x
        finally:
            handle.remove()
        raise AssertionError("a pass that does not call the network")

    def _forward(self, x: Inputs, views: bool, one: Pass) -> Tensor | tuple[Tensor]:
        """Return the outputs of a pass, as ``Pass.each`` holds them, for ``x`` (B, ...), or with
        ``views`` (S, B, ...).
        """
        dropout = one.dropout
        # The first pass shows what a compiled one hides. Its steps run again as they ran.
        call = None if self._reentrant is None else self._compiled

        def network(x: Inputs, views: bool, lead: int) -> Tensor:
            def applied(x: Inputs, views: bool = True) -> Tensor:
                return as_samples(self._apply(x, views, one, lead, call))

            anew = self.settings.noise_each_step
            each = self._noisy(applied, x, one, lead) if anew else applied(x, views)
            return one.watch(each, lead)

        with dropout or _NOTHING:
            if self.settings.unroll is None:
                return self._apply(x, views, one, 0, call)
            return self.settings.unroll(
                x,
                network,
                views=views,
                contexts=lambda: (_NOTHING, _NOTHING if dropout is None else dropout.again()),
            )

    def _perturbed(self, x: Inputs, views: bool, one: Pass) -> Tensor | tuple[Tensor]:
        """Do what ``_forward`` does, on a start with noise of each sample where there is any."""
        if self.settings.input_noise is None or self.settings.noise_each_step:
            return self._forward(x, views, one)
        outputs = self._noisy(lambda x: as_samples(self._forward(x, True, one)), x, one, 0)
        return outputs if len(one.part) > 1 else (outputs[0],)

    def _noisy(self, network: OnSamples, x: Inputs, one: Pass, lead: int) -> Tensor:
        noise = self.settings.input_noise
        assert noise is not None and isinstance(x, Tensor)
        key = self._posterior.key(one.draw.step, one.part).redrawn(lead)
        return noise.around(network, x, key, first=self._world.grid.data_rank * x.shape[-4])

    def _apply(
        self, x: Inputs, views: bool, one: Pass, lead: int, call: Callable[[Inputs], object] | None
    ) -> Tensor | tuple[Tensor]:
        weights = one.weights_at(lead)
        with self._autocast():
            if len(one.part) > 1:
                return self._posterior.apply_weights(x, weights, views=views)
            x = map_tensors(lambda view: view[0], x) if views else x
            return (self._posterior.apply_single(x, weights, call),)

    def first_draw(self, step: int) -> Tensor:
        """Return the first weights that this rank draws at ``step``, of more than one value where
        there are such: others, such as zeros, may be the same in all members. Where none are drawn,
        return the index of its first sample.
        """
        first = self.parts[0][:1]
        with torch.no_grad():
            drawn = list(self._posterior.sample(self._posterior.key(step, first)).values())
        return next(filter(_varies, drawn), drawn[0] if drawn else torch.tensor(first[0]))

    def augmented(self, x: Inputs, step: int, part: range) -> tuple[Inputs, bool]:
        """Return the input of a pass, and whether each of its samples has its own view of it."""
        if self.settings.augment is None:
            return x, False
        if not isinstance(x, Tensor):
            raise ValueError(
                f"augment: x is a {type(x).__name__}; only a single tensor (B, ...) is augmented"
            )
        if self.settings.views == "shared":
            return self._view(x, step, 0), False
        if self.settings.views == "per_rank":
            return self._view(x, step, self._world.grid.sample_rank), False
        return torch.stack([self._view(x, step, sample) for sample in part]), True

    def _view(self, x: Tensor, step: int, sample: int) -> Tensor:
        assert self.settings.augment is not None
        count = self.settings.augment.count(tuple(x.shape[1:]))
        stream = Stream(self._posterior.seed, Purpose.AUGMENTATION, step, sample)
        first = self._world.grid.data_rank * len(x)
        return self.settings.augment(
            x, uniforms(stream, (len(x), count), offset=first * count, device=x.device)
        )

    def _dropout(self, key: Key, examples: int) -> KeyedDropout | None:
        first = self._world.grid.data_rank * examples
        dropout = self._posterior.dropout(key, examples=examples, first_example=first)
        if dropout is not None:
            dropout.draws_anew = self.settings.redraw == "each_step"
        return dropout

    def _autocast(self) -> _Context:
        if self.settings.precision != "bf16":
            return _NOTHING
        return torch.autocast(self._world.device.type, dtype=torch.bfloat16)

    def _has_dropout(self) -> bool:
        drops = list(dropping_layers(self._posterior.module))
        if drops and len(self.parts[0]) > 1:
            raise ValueError(
                f"posterior.samples_per_pass: {drops[0]} is dropout, which needs the weight "
                "samples one at a time; set samples_per_pass to 1"
            )
        return bool(drops)


def _varies(weight: Tensor) -> bool:
    values = weight.flatten()
    return bool((values[:1] != values).any())
