"""Monte Carlo dropout: the weights are shared, and a weight sample is a mask of what is dropped.

    q(W):  W = w * diag(z),   z_i = 0 with probability p, else 1 / (1 - p)

    complexity = -log N(w; 0, tau^2) = sum [ w^2 / (2 tau^2) + log(tau) + log(2 pi) / 2 ]

w are the parameters of the network, z the keyed masks of its dropout layers, which stay on in
prediction. Dropping an activation drops a column of the weights of the next layer. The complexity
term is weight decay. It is, up to a constant, the KL of this q to a prior N(0, s^2) on W where
tau^2 = (1 - p) s^2: the KL is approximately (1 - p) |M|^2 / (2 s^2), with the means M = w / (1 - p)
of what is not dropped. p itself is not learned, so the width of q is a setting: choose it on
validation data.

Cost: a step of the network with dropout. Use it where a network is trained with dropout anyway, or
where memory allows one set of weights only. Its spread does not shrink with more data.

Source: Gal, Ghahramani 2016, arXiv:1506.02142, eq. 5-7 and section 4 of its appendix (KL).

Letters: S samples, B examples.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Literal, get_args

import torch
from annotated_types import Interval
from torch import Tensor, nn

from hpc_bnn.bayes.dropout import KeyedDropout, dropping_layers, restart_calls
from hpc_bnn.bayes.held import Weights as Given
from hpc_bnn.bayes.inputs import Inputs
from hpc_bnn.bayes.noise import REDRAWN, Key, Purpose, Stream, bits
from hpc_bnn.bayes.posterior import Posterior, Weights
from hpc_bnn.bayes.prior import PriorSigma, negative_log_prior, taus
from hpc_bnn.bayes.selection import names_of_linear_maps, refuse_changing_layers

MaskOwner = Literal["example", "sample"]
Probability = Annotated[float, Interval(gt=0, lt=1)]
BLOCK = 1 << 8  # examples of a prediction whose masks are one stream


class Dropout(Posterior):
    """Keep the dropout of ``module`` on in prediction, with masks that belong to weight samples.

    Parameters
    ----------
    module
        Any module with dropout, ``nn.Dropout`` or inside attention, and without BatchNorm; trained
        in place. It predicts in training mode, but for layers that are in evaluation mode when the
        posterior is made while the module is not.
    masks
        ``"example"``: each weight sample drops something else for each example. In a prediction
        these are told apart by their ``positions``, forecasts by their start times. ``"sample"``: a
        weight sample drops the same for all examples, so it is one network. Either way a forecast
        of many steps drops the same at all of them, unless masks are drawn anew (``train.redraw``
        and ``forecast.redraw``).
    prior_sigma
        tau, or ``"fan_in"``: ``1 / sqrt(fan_in)`` of each layer. The prior is over the weights of
        linear, convolution, recurrent and attention layers (``selection``).
    p
        Probability that all dropout layers are set to; None: that of each.
    seed
        Key of all masks; the same on every rank.

    Raises
    ------
    ValueError
        If an option is out of range or nothing would be dropped, or ``selection`` refuses a layer.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        masks: MaskOwner = "example",
        prior_sigma: PriorSigma = 1.0,
        p: Probability | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(module, (), seed=seed)
        refuse_changing_layers(module)
        _check(masks, p)
        if p is not None:
            _set_probability(module, p)
        if not dropping_layers(module):
            raise ValueError(
                f"posterior: {type(module).__name__} has no dropout layer with p > 0, so all its "
                "weight samples would be equal: give it nn.Dropout (bundled models: model.dropout "
                "= 0.1), or set p (posterior.p) where its layers have p = 0"
            )
        self.masks, self.prior_sigma, self.p = masks, prior_sigma, p
        self._with_prior = tuple(dict.fromkeys(names_of_linear_maps(module)))  # tied: once
        self._taus = taus(module, self._with_prior, prior_sigma)
        layers = module.modules() if module.training else ()
        self._never_drop = [layer for layer in layers if not layer.training]

    def sample(self, key: Key) -> Weights:
        """Return {}: the weights are the parameters of the network."""
        return {}

    def complexity(self) -> Tensor:
        """Return -log N(w; 0, tau^2) as a float64 scalar; 0 where there are no linear maps."""
        weights = [self.module.get_parameter(name) for name in self._with_prior]
        if not weights:
            return torch.zeros((), dtype=torch.float64)
        return negative_log_prior(weights, self._taus)

    def dropout(self, key: Key, *, examples: int, first_example: int) -> KeyedDropout:
        """Return the masks of a training pass of one sample."""
        stream = Stream(key.seed, Purpose.DROPOUT, key.step, key.samples[0], key.shift)
        kind = KeyedDropout if self.masks == "example" else _SampleDropout
        return kind(stream, examples=examples, first_example=first_example)

    def prediction_dropout(
        self, sample: int, positions: Sequence[int], redraw: int = 0
    ) -> KeyedDropout:
        """Return the masks of a prediction of one sample, drawn anew so many times."""
        if redraw and sample >= REDRAWN:
            raise ValueError(
                f"weight sample {sample}: masks are drawn anew for samples 0 to {REDRAWN - 1}"
            )
        stream = Stream(self.seed, Purpose.PREDICTION_DROPOUT, 0, sample + REDRAWN * redraw)
        if self.masks == "sample":
            return _SampleDropout(stream, examples=len(positions), first_example=0)
        return _PredictionDropout(stream, positions)

    def apply_single(
        self, x: Inputs, weights: Given, call: Callable[[Inputs], object] | None = None
    ) -> Tensor:
        """Return the outputs (B, ...) of the module, each time with the masks of the first, unless
        the pass draws masks anew.
        """
        restart_calls()
        return super().apply_single(x, weights, call)

    def _switch_to_prediction(self) -> None:
        self.module.train()
        for layer in self._never_drop:
            layer.training = False


class _SampleDropout(KeyedDropout):
    """Masks of one weight sample, the same for all examples."""

    def _bits(self, shape: tuple[int, ...], offset: int, device: torch.device) -> Tensor:
        own = (shape[0] // self._examples, *shape[1:])
        noise = bits(self._stream, own, offset=offset, device=device)
        return noise.repeat(self._examples, *[1] * (len(own) - 1))


class _PredictionDropout(KeyedDropout):
    """Masks of examples anywhere in what is predicted.

    Position i is number i % BLOCK of step i // BLOCK of the stream.
    """

    def __init__(self, stream: Stream, positions: Sequence[int]) -> None:
        super().__init__(stream, examples=len(positions), first_example=0)
        self._runs = _runs(positions)

    def _bits(self, shape: tuple[int, ...], offset: int, device: torch.device) -> Tensor:
        own = (shape[0] // self._examples, *shape[1:])
        parts = [
            bits(
                replace(self._stream, step=run.start // BLOCK),
                (len(run) * own[0], *own[1:]),
                offset=offset + run.start % BLOCK * torch.Size(own).numel(),
                device=device,
            )
            for run in self._runs
        ]
        return torch.cat(parts)


def _runs(positions: Sequence[int]) -> list[range]:
    """Cut ``positions`` into ranges, each within one block."""
    runs: list[range] = []
    for position in positions:
        if runs and position == runs[-1].stop and position % BLOCK:
            runs[-1] = range(runs[-1].start, position + 1)
        else:
            runs.append(range(position, position + 1))
    return runs


def _set_probability(module: nn.Module, p: float) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            layer.p = p
        elif isinstance(layer, nn.MultiheadAttention):
            layer.dropout = p


def _check(masks: str, p: float | None) -> None:
    if masks not in get_args(MaskOwner):
        raise ValueError(f"posterior.masks = {masks!r}: expected one of example, sample")
    if p is not None and not 0 < p < 1:
        raise ValueError(f"posterior.p = {p!r}: must be more than 0 and less than 1")
