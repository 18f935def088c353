"""A module that computes with other weights than its parameters, and what it gives then.

A parameter may stand in several places: a layer registered twice, tied weights. All of them then
hold the given tensor, and all get their parameter back. ``torch.func.functional_call`` swaps a
layer that is registered twice twice, and leaves the given weights in it.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from hpc_bnn.bayes.inputs import Inputs, map_tensors, versions

Weights = Mapping[str, Tensor]
Place = tuple[nn.Module, str]  # a layer and the name of its parameter


def places_of(module: nn.Module, names: Iterable[str]) -> dict[str, list[Place]]:
    """Return, for each parameter name, every layer and attribute that holds this parameter."""
    where: dict[int, list[Place]] = {}
    for layer in module.modules():  # each layer once, however often it is registered
        for leaf, parameter in layer._parameters.items():
            if parameter is not None:
                where.setdefault(id(parameter), []).append((layer, leaf))
    return {name: where[id(module.get_parameter(name))] for name in names}


def count_samples(weights: Weights) -> int:
    """Return S of weights (S, *shape); of none it is 1."""
    return next((len(weight) for weight in weights.values()), 1)


class held:  # a block, as those of contextlib
    """Let the layers use ``weights``, by name, instead of their parameters, within a block.

    Backward must run inside too where the network runs parts of itself again (activation
    checkpointing): they look their weights up once more.
    """

    def __init__(self, places: Mapping[str, list[Place]], weights: Mapping[str, Tensor]) -> None:
        self._places, self._weights = places, weights
        self._before: list[tuple[nn.Module, str, nn.Parameter | None]] = []

    def __enter__(self) -> None:
        try:
            for name, weight in self._weights.items():
                for layer, leaf in self._places[name]:
                    parameters = layer._parameters
                    self._before.append((layer, leaf, parameters[leaf]))
                    parameters[leaf] = weight  # type: ignore[assignment]  # torch does so too
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        for layer, leaf, parameter in reversed(self._before):
            layer._parameters[leaf] = parameter
            if isinstance(layer, nn.RNNBase):  # which keeps a list of its own of what it used last
                with torch.no_grad():  # some may be made by a parametrization
                    names = layer._flat_weights_names
                    layer._flat_weights = [getattr(layer, name) for name in names]


def only_tensor(output: object) -> Tensor:
    """Return the output of a network, refusing several."""
    if isinstance(output, Tensor):
        return output
    kind = type(output).__name__
    if isinstance(output, Mapping):
        held_by, take = f"{kind} with {', '.join(map(repr, output))}", repr(next(iter(output), ""))
    elif isinstance(output, tuple | list):
        held_by, take = f"{kind} of {len(output)}", "0"
    else:
        held_by, take = kind, "..."
    raise ValueError(
        f"the network gives a {held_by}, a loss needs one tensor (B, ...): wrap the network in a "
        f"module whose forward returns the one that the loss is about, such as network(x)[{take}]"
    )


@contextlib.contextmanager
def in_one_pass(samples: int) -> Iterator[None]:
    """Say what to do where ``torch.vmap`` cannot run or pull back so many samples in one pass.

    Raises
    ------
    ValueError
        Instead of what torch says of its own inside.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        memory = isinstance(error, torch.cuda.OutOfMemoryError) or "allocate memory" in reason
        if samples == 1 or memory:
            raise
        raise ValueError(
            "posterior.samples_per_pass: the network cannot run several weight samples in one pass "
            f"of torch.vmap ({reason}); set samples_per_pass to 1"
        ) from error


class Held(nn.Module):
    """Runs ``module``, which is not copied, on weights that are given.

    Letters: S samples, B batch.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._places = places_of(module, [name for name, _ in module.named_parameters()])
        self._writes_to_input: bool | None = None
        self._held_mode: bool | None = None  # of the module, within ``evaluating``

    @property
    def writes_to_input(self) -> bool | None:
        """Whether the module changes its input in place, so that each pass gets a copy; None: not
        known before the first pass.
        """
        return self._writes_to_input

    @writes_to_input.setter
    def writes_to_input(self, value: bool) -> None:
        self._writes_to_input = value

    def apply_weights(
        self, x: Inputs, weights: Mapping[str, Tensor], *, views: bool = False
    ) -> Tensor:
        """Return the outputs (S, B, ...) of the module on ``weights``, as ``sample`` returns them;
        of none, of one sample.

        A module that writes to its input gets a copy.

        Raises
        ------
        ValueError
            If the module does not give one tensor.
        """
        samples = count_samples(weights)
        if samples == 1:
            single = {name: weight.squeeze(0) for name, weight in weights.items()}
            own = map_tensors(lambda view: view[0], x) if views else x
            return self.apply_single(own, single).unsqueeze(0)

        def run(own: Inputs) -> Tensor:
            with in_one_pass(samples):
                outputs: Tensor = torch.vmap(self._run, in_dims=(0, 0 if views else None))(
                    dict(weights), own
                )
                return outputs

        return self._on_own_input(x, run)

    def apply_single(
        self,
        x: Inputs,
        weights: Mapping[str, Tensor],
        call: Callable[[Inputs], object] | None = None,
    ) -> Tensor:
        """Return the outputs (B, ...) of the module on ``weights`` (*shape) of one sample; ``call``
        does what the module does.
        """
        return self._on_own_input(x, lambda own: self._run(weights, own, call))

    def _on_own_input(self, x: Inputs, run: Callable[[Inputs], Tensor]) -> Tensor:
        """Run the module on ``x``, or on a copy where it writes to it."""
        before = versions(x)
        pristine = self.writes_to_input is False and before is not None
        # A module may also put other tensors into the containers of its input.
        own = map_tensors(_itself if pristine else torch.clone, x)
        before = before if pristine else versions(own)
        outputs = run(own)
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

    def _run(
        self,
        weights: Mapping[str, Tensor],
        x: Inputs,
        call: Callable[[Inputs], object] | None = None,
    ) -> Tensor:
        with self.holding(weights):
            return only_tensor((call or self.module)(x))

    def holding(self, weights: Mapping[str, Tensor]) -> contextlib.AbstractContextManager[None]:
        """Return a block in which the module has ``weights`` (*shape) instead of its own, for
        backward passes that run parts of the network again.
        """
        return held(self._places, weights)

    def _require_layers(self, names: Iterable[str]) -> None:
        """Refuse a module of which a layer was replaced."""
        layers = dict(self.module.named_modules(remove_duplicate=False))
        for name in names:
            path, _, leaf = name.rpartition(".")
            if (layers.get(path), leaf) not in self._places[name]:
                raise ValueError(
                    f"the layer of {name} was replaced after the posterior was made, which knows "
                    "the old one: change the network first, then make the posterior"
                )

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Hold the module in the mode that it predicts in."""
        before = self._held_mode
        if before is not None and before == self.module.training:  # held so already
            yield
            return
        # Mode by mode: part of a network in training may be held in evaluation mode.
        modes = [(layer, layer.training) for layer in self.module.modules()]
        self._switch_to_prediction()
        self._held_mode = self.module.training
        try:
            yield
        finally:
            self._held_mode = before
            for layer, mode in modes:
                if layer.training != mode:  # most are as they were, and a module is slow to change
                    layer.training = mode

    def _switch_to_prediction(self) -> None:
        if any(layer.training for layer in self.module.modules()):
            self.module.eval()


def _itself(tensor: Tensor) -> Tensor:
    return tensor
