"""Refuses what a forward pass may not do beside giving outputs: change buffers or parameters, take
random numbers.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hpc_bnn.bayes.culprit import first_random_layer
from hpc_bnn.bayes.generators import Generators
from hpc_bnn.bayes.impure import SWITCH, ImpureError, Surroundings
from hpc_bnn.bayes.inputs import Inputs, map_tensors


def refuse_changed_parameters(module: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Raise ImpureError for the first parameter that a pass changed, after putting all back."""
    changed = [n for n, p in module.named_parameters() if n in before and not _equal(p, before[n])]
    with torch.no_grad():
        for name in changed:
            module.get_parameter(name).copy_(before[name])
    if changed:
        raise ImpureError(
            f"parameter {changed[0]} changes in the forward pass (nn.Embedding(max_norm=...), an "
            "assignment to its .data): it would differ between ranks. Change a copy of it, or do "
            f"so after the step on every rank {SWITCH}"
        )


def refuse_changed_buffers(module: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Raise ImpureError for the first buffer that a pass changed, after putting all back."""
    changed = []
    for name, buffer in module.named_buffers():
        kept = before.get(name)
        if kept is None or not _equal(buffer, kept):
            changed.append(name)
        if kept is not None and kept.shape == buffer.shape:
            buffer.detach().copy_(kept)
    if changed:
        owner = type(module.get_submodule(changed[0].rpartition(".")[0])).__name__
        raise ImpureError(
            f"buffer {changed[0]} of {owner} changes in the forward pass: it would mix the weight "
            "samples and differ between ranks. Compute it from the input, hold that layer in "
            f"evaluation mode, or use nn.LayerNorm or nn.GroupNorm {SWITCH}"
        )


def _equal(first: Tensor, second: Tensor) -> bool:
    nan = first.is_floating_point() or first.is_complex()
    first, second = first.detach().to_dense(), second.to_dense()
    return first.shape == second.shape and bool(
        torch.allclose(first, second, rtol=0.0, atol=0.0, equal_nan=True)
        if nan
        else torch.equal(first, second)
    )


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
