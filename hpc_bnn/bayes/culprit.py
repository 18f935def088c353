"""Finds the layer of a network that is at fault, once a check has failed."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hpc_bnn.bayes.generators import Generators
from hpc_bnn.bayes.impure import close, label

Run = Callable[[], object]


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
