"""Finds the layer of a network that is at fault: that gives other outputs than its twin, or takes
numbers from generators that nobody keys, those of torch, Python and numpy.
"""

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hpc_bnn.bayes.impure import SWITCH, ImpureError, Surroundings, close, label
from hpc_bnn.bayes.inputs import Inputs, map_tensors

Run = Callable[[], object]


class Generators:
    """Remembers where the generators of this process stand.

    A pass that moves them takes numbers that depend on the rank and on what ran before.
    """

    def __init__(self) -> None:
        self._torch = torch.get_rng_state()
        started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._cuda = torch.cuda.get_rng_state_all() if started else []
        self._python = random.getstate()
        self._numpy = np.random.get_state(legacy=False)  # noqa: NPY002  # what networks may use

    def moved(self) -> str | None:
        """Return the first generator that took a step since then, None if none did."""
        if not torch.equal(torch.get_rng_state(), self._torch):
            return "torch's generator"
        cuda = torch.cuda.get_rng_state_all() if self._cuda else []
        if any(not torch.equal(a, b) for a, b in zip(cuda, self._cuda, strict=True)):
            return "torch's CUDA generator"
        if random.getstate() != self._python:
            return "Python's random module"
        if _numbers(np.random.get_state(legacy=False)) != _numbers(self._numpy):  # noqa: NPY002
            return "numpy.random"
        return None

    def restore(self) -> None:
        """Put all of them back."""
        torch.set_rng_state(self._torch)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002


def _numbers(state: object) -> str:
    return repr([(key, np.asarray(value).tobytes()) for key, value in _flat(state)])


def _flat(state: object, name: str = "") -> list[tuple[str, object]]:
    if not isinstance(state, dict):
        return [(name, state)]
    return [row for key, value in state.items() for row in _flat(value, f"{name}.{key}")]


def refuse_random_numbers(
    generators: Generators, twin: nn.Module, x: Inputs, surroundings: Surroundings
) -> None:
    """Raise ImpureError where a pass has taken numbers that are not keyed."""
    if generators.moved() is None:
        return

    def run() -> None:
        with torch.no_grad(), surroundings():
            twin(map_tensors(torch.clone, x))

    # Another thread, such as one that reads ahead, may have taken them: it would need to do so
    # within the calls of the same layer twice more.
    first, (where, source) = first_random_layer(twin, run), first_random_layer(twin, run)
    if source is None or first != (where, source):
        return
    generators.restore()
    advice = (
        "Draw them once, when the network is made, or use nn.functional.dropout, whose masks are "
        "keyed"
        if twin.training
        else "Prediction has no masks: give nn.functional.dropout training=self.training"
    )
    raise ImpureError(
        f"{where} takes numbers from {source} in the forward pass: they differ between ranks, and "
        f"when a pass is run again. {advice} {SWITCH}"
    )


def first_random_layer(module: nn.Module, run: Run) -> tuple[str, str | None]:
    """Return the innermost layer during whose call in ``run`` random numbers are taken, and from
    which generator; None: none are.
    """
    inside: list[Generators] = []
    guilty: list[tuple[str, str]] = []

    def before(name: str) -> None:
        inside.append(Generators())

    def after(name: str, output: Any) -> None:
        source = inside.pop().moved()
        if source is not None:
            guilty.append((name, source))

    with _around_each_layer(module, before, after):
        run()
    return guilty[0] if guilty else (label("", module), None)


def first_differing_layer(module: nn.Module, run: Run, twin: nn.Module, run_twin: Run) -> str:
    """Return the first layer whose outputs differ between the runs of a network and its copy."""
    pairs = zip(_outputs(module, run), _outputs(twin, run_twin), strict=False)
    differing = (name for (name, here), (_, there) in pairs if not close(here, there))
    return next(differing, label("", module))


def _outputs(module: nn.Module, run: Run) -> list[tuple[str, Tensor]]:
    rows: list[tuple[str, Tensor]] = []

    def after(name: str, output: Any) -> None:
        if isinstance(output, Tensor):
            rows.append((name, output.detach().clone()))

    with torch.no_grad(), _around_each_layer(module, lambda name: None, after):
        run()
    return rows


@contextlib.contextmanager
def _around_each_layer(
    module: nn.Module, before: Callable[[str], None], after: Callable[[str, Any], None]
) -> Iterator[None]:
    """Call ``before`` with the name of each layer that is called, ``after`` with name and output as
    soon as it is done: inner layers first.
    """
    handles = []
    for name, layer in module.named_modules():
        what = label(name, layer)
        handles += [
            layer.register_forward_pre_hook(lambda *_, what=what: before(what)),
            layer.register_forward_hook(lambda *given, what=what: after(what, given[-1])),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
