"""A module whose weights are drawn, and its predictions: the part of a posterior that a script asks
for outputs.

Letters: S samples, B batch.
"""

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from hpc_bnn.bayes.dropout import KeyedDropout
from hpc_bnn.bayes.export import with_weights
from hpc_bnn.bayes.held import Held
from hpc_bnn.bayes.impure import Surroundings
from hpc_bnn.bayes.inputs import Inputs, positions_of
from hpc_bnn.bayes.noise import Key, Purpose
from hpc_bnn.bayes.purity import check_pure

Weights = dict[str, Tensor]


class Predictor(Held):
    """Runs ``module``, which is not copied, on weights of ``names`` that ``sample`` draws."""

    def __init__(self, module: nn.Module, names: Sequence[str], *, seed: int) -> None:
        super().__init__(module)
        self.names, self.seed = tuple(names), seed
        self._checked = False

    def key(self, step: int, samples: Iterable[int], purpose: Purpose = Purpose.WEIGHTS) -> Key:
        """Name the weight samples of global indices ``samples`` at ``step``."""
        return Key(self.seed, step, tuple(samples), purpose)

    @abstractmethod
    def sample(self, key: Key) -> Weights:
        """Return the drawn weights by name, each (S, *shape), a function of ``key`` and the
        parameters.
        """

    def prediction_samples(self, wish: int) -> int:
        """Return how many weight samples there are to predict with, at most ``wish``."""
        return wish

    def prediction_dropout(
        self, sample: int, positions: Sequence[int], redraw: int = 0
    ) -> KeyedDropout | None:
        """Return what replaces the dropout of a prediction of one sample, drawn anew so many times,
        for examples in ``positions`` of all that is predicted; None: nothing is dropped.
        """
        return None

    def forward(self, x: Inputs, key: Key, *, views: bool = False) -> Tensor:
        """Return the outputs (S, B, ...) of the module on drawn weights.

        ``x`` is a tensor (B, ...), or a tuple, list or dict of such, the same for all samples, or
        with ``views`` (S, B, ...), one view of the batch a sample. Several samples run in one pass
        by ``torch.vmap``; a single one runs as the plain module.
        """
        return self.apply_weights(x, self.sample(key), views=views)

    @torch.no_grad()
    def check(
        self,
        key: Key,
        x: Inputs,
        *,
        gradients: bool,
        surroundings: Surroundings = contextlib.nullcontext,
    ) -> list[str]:
        """Raise ImpureError unless the module is a pure function of its weights and its input
        ``x`` in evaluation mode, and with ``gradients`` in training as well; return the names of
        drawn weights that no output depends on then (``hpc_bnn.bayes.purity``). Prediction does not
        check again.
        """
        drawn = self.sample(key)
        if not drawn:  # then the network's own parameters must be all that it computes with
            drawn = {name: p.detach()[None] for name, p in self.module.named_parameters()}
        unused = []
        if gradients:
            unused = check_pure(self, drawn, x, gradients=True, surroundings=surroundings)
        first = {name: weight[:1] for name, weight in drawn.items()}
        predicting = partial(self.predicting, key.samples[0], positions_of(x))
        with self.evaluating():
            check_pure(self, first, x, gradients=False, surroundings=predicting)
        self._checked = True
        return unused

    @contextlib.contextmanager
    def predicting(
        self, sample: int, positions: Sequence[int], redraw: int = 0
    ) -> Iterator[KeyedDropout | None]:
        """Hold the module as it predicts examples in ``positions`` with one sample: in evaluation
        mode, but for the dropout that a method leaves on.
        """
        dropout = self.prediction_dropout(sample, positions, redraw)
        with self.evaluating(), dropout or contextlib.nullcontext():
            yield dropout

    @torch.no_grad()
    def predict(
        self,
        x: Inputs,
        *,
        samples: int,
        first: int = 0,
        samples_per_pass: int = 1,
        check: bool = True,
        positions: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the outputs (S, B, ...) for ``x`` (B, ...) under ``samples`` weight samples, in
        evaluation mode, but for dropout that is a part of the method.

        Prediction has a stream of its own: sample ``first + s`` is the same network whenever and
        wherever it is asked for, so members can be spread over calls and ranks. Where it differs
        between examples, ``positions`` (B,) say which these are of all that is predicted; None: the
        first B.

        Raises
        ------
        ValueError
            If there are fewer weight samples to predict with.
        ImpureError
            From the first call with ``check``: if the network is not a pure function of its weights
            and input (``hpc_bnn.bayes.purity``).
        """
        if samples < 1 or samples_per_pass < 1:
            raise ValueError(
                f"samples = {samples}, samples_per_pass = {samples_per_pass}: must be at least 1"
            )
        samples_per_pass = samples_per_pass if self.names else 1
        indices = range(first, first + samples)
        available = self.prediction_samples(indices.stop)
        if available < indices.stop:
            raise ValueError(
                f"samples = {samples}, from {first} on: this posterior has {available} weight "
                f"samples to predict with; ask for at most {max(0, available - first)}"
            )
        outputs: Tensor | None = None
        self._require_layers(self.names)
        places = positions_of(x, positions)
        if check and not self._checked:
            self.check(self.key(0, indices[:1], Purpose.PREDICTION), x, gradients=False)
        for i in range(0, samples, samples_per_pass):
            key = self.key(0, indices[i : i + samples_per_pass], Purpose.PREDICTION)
            with self.predicting(key.samples[0], places):
                part = self(x, key)
                if outputs is None:  # filled, not joined at the end, which would hold all twice
                    outputs = part.new_empty((samples, *part.shape[1:]))
                outputs[i : i + len(part)] = part
                del part
        assert outputs is not None
        return outputs

    @torch.no_grad()
    def prediction_weights(self, sample: int, redraw: int = 0) -> Weights:
        """Return the weights (1, *shape) by name of ``network``: of one sample of ``predict``,
        drawn anew so many times.
        """
        self._require_layers(self.names)
        return self.sample(self.key(redraw, (sample,), Purpose.PREDICTION))

    @torch.no_grad()
    def network(
        self,
        sample: int,
        *,
        positions: Sequence[int] | None = None,
        redraw: int = 0,
        weights: Weights | None = None,
    ) -> Callable[[Inputs], Tensor]:
        """Return the network of one sample of ``predict`` as a function (B, ...) -> (B, ...).

        Its weights are drawn here, once, for forecasts that apply it many times; whatever else is
        random in it is the same each time, too. ``redraw``: how many times it was drawn before;
        each is another network, where the method draws (``draws``). ``weights``: its
        ``prediction_weights``, where they were drawn before.
        """
        own = self.prediction_weights(sample, redraw) if weights is None else weights

        @torch.no_grad()
        def run(x: Inputs) -> Tensor:
            with self.predicting(sample, positions_of(x, positions), redraw):
                return self.apply_weights(x, own)[0]

        return run

    @torch.no_grad()
    def to_module(self, sample: int) -> nn.Module:
        """Return an ordinary module in evaluation mode, a copy, with the weights of one sample of
        ``predict``: the outputs (B, ...) for ``x`` (B, ...) are those of that sample.

        It can be traced (``torch.jit.trace``), exported to ONNX or trained on by others. Parameters
        under ``weight_norm`` and other parametrizations become plain ones.

        Raises
        ------
        ValueError
            If samples differ in what they drop, which an ordinary module does not know.
        """
        if self.prediction_dropout(sample, (0,)) is not None:
            raise ValueError(
                f"to_module: the samples of {type(self).__name__} are masks of dropout, which an "
                "ordinary module does not keep; use network(sample) or predict"
            )
        self._require_layers(self.names)
        drawn = self.sample(self.key(0, (sample,), Purpose.PREDICTION))
        return with_weights(self.module, {name: weight[0] for name, weight in drawn.items()})
