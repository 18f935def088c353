"""A distribution over the weights of a module: what every method shares once it can draw them.

Letters: S samples, B batch.
"""

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from hpc_bnn.bayes.draw import Draws
from hpc_bnn.bayes.held import held, places_of
from hpc_bnn.bayes.impure import Surroundings
from hpc_bnn.bayes.inputs import Inputs, map_tensors, versions
from hpc_bnn.bayes.noise import Purpose
from hpc_bnn.bayes.outputs import in_one_pass, only_tensor
from hpc_bnn.bayes.purity import check_pure


class Posterior(nn.Module):
    """Runs ``module`` on drawn weights.

    Attributes
    ----------
    module
        The network; not copied.
    names
        Its random parameters.
    seed
        Key of all weight draws; the same on every rank.
    """

    def __init__(self, module: nn.Module, names: Sequence[str], *, seed: int) -> None:
        super().__init__()
        self.module, self.names, self.seed = module, tuple(names), seed
        self._places = places_of(module, self.names)
        self._writes_to_input: bool | None = None
        self._checked = False

    @property
    def writes_to_input(self) -> bool | None:
        """Whether the module changes its input in place, so that each pass gets a copy; None: not
        known before the first pass.
        """
        return self._writes_to_input

    @writes_to_input.setter
    def writes_to_input(self, value: bool) -> None:
        self._writes_to_input = value

    @abstractmethod
    def draws(self, step: int, samples: Sequence[int], purpose: Purpose = Purpose.WEIGHTS) -> Draws:
        """Name the weight samples of global indices ``samples`` at ``step``."""

    @abstractmethod
    def draw(self, draws: Draws) -> dict[str, Tensor]:
        """Return the drawn weights by name, each (S, *shape)."""

    def forward(self, x: Inputs, draws: Draws, *, views: bool = False) -> Tensor:
        """Return the outputs (S, B, ...) of the module on drawn weights.

        ``x`` is a tensor (B, ...), or a tuple, list or dict of such, the same for all samples, or
        with ``views`` (S, B, ...), one view of the batch a sample. Several samples run in one pass
        by ``torch.vmap``; a single one runs as the plain module.
        """
        return self.apply_weights(x, self.draw(draws), views=views)

    def apply_weights(
        self, x: Inputs, weights: Mapping[str, Tensor], *, views: bool = False
    ) -> Tensor:
        """Return the outputs (S, B, ...) of the module on ``weights``, as ``draw`` returns them.

        A module that writes to its input gets a copy.

        Raises
        ------
        ValueError
            If the module does not give one tensor.
        """
        before = versions(x)
        pristine = self.writes_to_input is False and before is not None
        # A module may also put other tensors into the containers of its input.
        own = map_tensors(_itself if pristine else torch.clone, x)
        before = versions(own)
        if len(next(iter(weights.values()))) == 1:
            single = {name: weight.squeeze(0) for name, weight in weights.items()}
            with self.holding(single):
                output = self.module(map_tensors(lambda v: v[0], own) if views else own)
            outputs = only_tensor(output).unsqueeze(0)
        else:
            each = (0, 0 if views else None)
            with in_one_pass(len(next(iter(weights.values())))):
                outputs = torch.vmap(self._run, in_dims=each)(dict(weights), own)
        if before is not None and versions(own) != before:
            if pristine:
                raise RuntimeError(
                    "the network wrote to its input in this pass, but not in the first one: use "
                    "operations that are not in place on the input"
                )
            self.writes_to_input = True
        elif self.writes_to_input is None and before is not None:
            self.writes_to_input = False
        return outputs

    def _run(self, weights: Mapping[str, Tensor], x: Inputs) -> Tensor:
        with self.holding(weights):
            return only_tensor(self.module(x))

    @torch.no_grad()
    def check(
        self,
        draws: Draws,
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
        drawn = self.draw(draws)
        unused = []
        if gradients:
            unused = check_pure(self, drawn, x, gradients=True, surroundings=surroundings)
        first = {name: weight[:1] for name, weight in drawn.items()}
        with self._evaluating():
            check_pure(self, first, x, gradients=False)
        self._checked = True
        return unused

    def holding(self, weights: Mapping[str, Tensor]) -> contextlib.AbstractContextManager[None]:
        """Return a block in which the module has ``weights`` (*shape) instead of its own, for
        backward passes that run parts of the network again.
        """
        return held(self._places, weights)

    @torch.no_grad()
    def predict(
        self,
        x: Inputs,
        *,
        samples: int,
        first: int = 0,
        samples_per_pass: int = 1,
        check: bool = True,
    ) -> Tensor:
        """Return the outputs (S, B, ...) for ``x`` (B, ...) under ``samples`` weight samples, in
        evaluation mode.

        Prediction has a stream of its own: sample ``first + s`` is the same network whenever and
        wherever it is asked for, so members can be spread over calls and ranks.

        Raises
        ------
        ImpureError
            From the first call with ``check``: if the network is not a pure function of its weights
            and input (``hpc_bnn.bayes.purity``).
        """
        if samples < 1 or samples_per_pass < 1:
            raise ValueError(
                f"samples = {samples}, samples_per_pass = {samples_per_pass}: must be at least 1"
            )
        indices = range(first, first + samples)
        outputs: Tensor | None = None
        self._require_its_layers()
        with self._evaluating():
            if check and not self._checked:
                self.check(self.draws(0, indices[:1], Purpose.PREDICTION), x, gradients=False)
            for i in range(0, samples, samples_per_pass):
                draws = self.draws(0, indices[i : i + samples_per_pass], Purpose.PREDICTION)
                part = self(x, draws)
                if outputs is None:  # filled, not joined at the end, which would hold all twice
                    outputs = part.new_empty((samples, *part.shape[1:]))
                outputs[i : i + len(part)] = part
                del part
        assert outputs is not None
        return outputs

    @torch.no_grad()
    def network(self, sample: int) -> Callable[[Inputs], Tensor]:
        """Return the network of one sample of ``predict`` as a function (B, ...) -> (B, ...).

        Its weights are drawn here, once, for forecasts that apply it many times.
        """
        self._require_its_layers()
        weights = self.draw(self.draws(0, (sample,), Purpose.PREDICTION))

        @torch.no_grad()
        def run(x: Inputs) -> Tensor:
            with self._evaluating():
                return self.apply_weights(x, weights)[0]

        return run

    def _require_its_layers(self) -> None:
        """Refuse a module of which a layer was replaced."""
        for name in self.names:
            path, _, leaf = name.rpartition(".")
            if (self.module.get_submodule(path), leaf) not in self._places[name]:
                raise ValueError(
                    f"the layer of {name} was replaced after the posterior was made, which knows "
                    "the old one: change the network first, then make the posterior"
                )

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Hold the module in evaluation mode."""
        # Mode by mode: part of a network in training may be held in evaluation mode.
        modes = [(layer, layer.training) for layer in self.module.modules()]
        self.module.eval()
        try:
            yield
        finally:
            for layer, mode in modes:
                layer.training = mode


def _itself(tensor: Tensor) -> Tensor:
    return tensor
