"""Proves that a network is a pure function of its weights and its input.

All else rests on it: a forward pass is run again in backward, on another rank, or with the weights
of another sample, and must say the same. Once, the pass of the first samples is run a second time
on a copy of the network that holds the drawn weights as its parameters, as plain torch would run
it. Outputs and gradients must be equal, buffers unchanged, and the random numbers of torch, Python
and numpy untouched. What fails is told by name.

It costs about three passes and one copy of the network.

Letters: S samples of the check, B examples.
"""

import contextlib
import copy
import logging
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from hpc_bnn.bayes.culprit import first_differing_layer, first_random_layer
from hpc_bnn.bayes.dropout import KeyedDropout
from hpc_bnn.bayes.examples import refuse_mixed_examples, taken
from hpc_bnn.bayes.generators import Generators
from hpc_bnn.bayes.held import held, places_of
from hpc_bnn.bayes.impure import SWITCH, ImpureError, Surroundings, close, label
from hpc_bnn.bayes.inputs import Inputs, count_examples, map_tensors
from hpc_bnn.bayes.outputs import in_one_pass

log = logging.getLogger(__name__)

Weights = Mapping[str, Tensor]


class Applies(Protocol):
    """A posterior, as far as this check knows it."""

    module: nn.Module

    def apply_weights(self, x: Inputs, weights: Weights) -> Tensor:
        """Return the outputs (S, B, ...) of the module on weights, each (S, *shape)."""


def check_pure(
    posterior: Applies,
    drawn: Weights,
    x: Inputs,
    *,
    gradients: bool,
    surroundings: Surroundings = contextlib.nullcontext,
) -> list[str]:
    """Raise ImpureError unless the network gives the outputs of its copy; return the names of
    ``drawn`` weights that no output depends on (with ``gradients`` only).

    Parameters
    ----------
    drawn
        Weights (S, *shape) by name.
    x
        Input of the module itself, the same for all samples.
    gradients
        Compare gradients too, and examples in other places of the batch.
    surroundings
        What a pass runs in.
    """
    module, examples = posterior.module, count_examples(x)
    if examples == 0:  # of a rank that has none of a test split
        return []
    try:
        twin = copy.deepcopy(module)
    except Exception as error:  # whatever a module holds: locks, handles, tensors with a history
        log.warning("the network cannot be copied (%s): it is not checked to be pure", error)
        return []
    leaves = {k: weight.detach().clone().requires_grad_(gradients) for k, weight in drawn.items()}
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    generators = Generators()
    # On other weights and another batch first: what that call leaves behind shows in the next one.
    others = taken(x, [*range(1, examples), examples - 1])
    with torch.no_grad(), surroundings():
        posterior.apply_weights(others, {k: 1.25 * weight for k, weight in drawn.items()})
    with torch.set_grad_enabled(gradients):
        outputs = _with_weights(posterior, leaves, x, surroundings)
        _refuse_changed_buffers(module, buffers)
        _refuse_random_numbers(generators, twin, x, surroundings)
        plain, plain_gradients = _as_parameters(twin, leaves, x, surroundings)
    if not close(outputs, plain):
        raise ImpureError(_describe_outputs(module, twin, leaves, x, surroundings))
    if not gradients:
        return []
    for name, leaf in leaves.items():
        _refuse_other_gradient(name, leaf.grad, plain_gradients[name])
    refuse_mixed_examples(twin, x, surroundings)
    return [name for name, leaf in leaves.items() if leaf.grad is None]


def _with_weights(
    posterior: Applies, leaves: Weights, x: Inputs, surroundings: Surroundings
) -> Tensor:
    """Return the outputs (S, B, ...) as training computes them; gradients go to the leaves."""
    # Deterministic parameters must not get a gradient here, since reductions wait for theirs.
    everything = {
        name: parameter.detach().clone().requires_grad_(parameter.requires_grad)
        for name, parameter in posterior.module.named_parameters()
        if name not in leaves
    }
    if _count(leaves) == 1:
        everything |= {name: leaf[0] for name, leaf in leaves.items()}
    with held(places_of(posterior.module, everything), everything):
        with surroundings() as dropout:
            outputs = posterior.apply_weights(x, leaves)
        with in_one_pass(_count(leaves)):
            _backward(_scalar(outputs), dropout)
    return outputs.detach()


def _as_parameters(
    twin: nn.Module, leaves: Weights, x: Inputs, surroundings: Surroundings
) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Return outputs (S, B, ...) and gradients (S, *shape) of the copy, one sample at a time."""
    samples = _count(leaves)
    outputs: list[Tensor] = []
    gradients: dict[str, list[Tensor]] = {name: [] for name in leaves}
    for sample in range(samples):
        _load(twin, leaves, sample)
        twin.zero_grad(set_to_none=True)
        with surroundings() as dropout:
            output = twin(map_tensors(torch.clone, x))
        _backward(_scalar(output[None], sample=sample, samples=samples), dropout)
        outputs.append(output.detach())
        for name, each in gradients.items():
            gradient = twin.get_parameter(name).grad
            each += [] if gradient is None else [gradient]
    joined = {
        k: torch.stack([g.to_dense() for g in each]) if each else None
        for k, each in gradients.items()
    }
    return torch.stack(outputs), joined


def _count(leaves: Weights) -> int:
    return len(next(iter(leaves.values())))


@torch.no_grad()
def _load(twin: nn.Module, leaves: Weights, sample: int) -> None:
    for name, leaf in leaves.items():  # of a frozen mean the scale is trained all the same
        twin.get_parameter(name).copy_(leaf[sample]).requires_grad_(leaf.requires_grad)


def _scalar(outputs: Tensor, *, sample: int = 0, samples: int | None = None) -> Tensor:
    """Return a number that depends on every output (S, B, ...), on each another way; for the
    ``sample`` of so many, its part of that number.
    """
    each = outputs[0].numel()
    first = sample * each
    positions = torch.arange(first, first + outputs.numel(), device=outputs.device)
    wide = torch.promote_types(outputs.dtype, torch.float32)
    pull = torch.cos(positions.to(torch.float64)).to(wide).view(outputs.shape)
    norm = ((samples or len(outputs)) * each) ** 0.5
    total: Tensor = (outputs.to(wide) * pull).sum()
    part: Tensor = torch.real(total) / norm
    return part


def _backward(root: Tensor, dropout: KeyedDropout | None) -> None:
    if root.requires_grad:
        with contextlib.nullcontext() if dropout is None else dropout.in_backward():
            torch.autograd.backward(root)


def _refuse_changed_buffers(module: nn.Module, before: Weights) -> None:
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
    first, second = first.to_dense(), second.to_dense()
    return first.shape == second.shape and bool(
        torch.allclose(first, second, rtol=0.0, atol=0.0, equal_nan=True)
        if nan
        else torch.equal(first, second)
    )


def _refuse_random_numbers(
    generators: Generators, twin: nn.Module, x: Inputs, surroundings: Surroundings
) -> None:
    if generators.moved() is None:
        return

    def run() -> None:
        with torch.no_grad(), surroundings():
            twin(map_tensors(torch.clone, x))

    # Another thread, such as one that reads ahead, may have taken them: it would need to do so
    # within the calls of a layer twice more.
    for _ in range(2):
        where, source = first_random_layer(twin, run)
    generators.restore()
    if source is None:
        return
    raise ImpureError(
        f"{where} takes numbers from {source} in the forward pass: they differ between ranks, and "
        "when a pass is run again. Draw them once, when the network is made, or use "
        f"nn.functional.dropout, whose masks are keyed {SWITCH}"
    )


def _describe_outputs(
    module: nn.Module, twin: nn.Module, leaves: Weights, x: Inputs, surroundings: Surroundings
) -> str:
    """Return the message on a copy that gives other outputs, with the first layer that does."""
    _load(twin, leaves, 0)
    single = {name: leaf[0].detach() for name, leaf in leaves.items()}

    def run(network: nn.Module) -> None:
        with surroundings():
            network(map_tensors(torch.clone, x))

    where = label("", module)
    with contextlib.suppress(Exception), held(places_of(module, single), single):  # of its state
        where = first_differing_layer(module, lambda: run(module), twin, lambda: run(twin))
    return (
        f"{where} gives other outputs where the drawn weights are its parameters: it computes with "
        "weights that are not registered as its own (kept in a list, a closure or another module, "
        "or made from a parameter in __init__), or with what an earlier call left behind. Register "
        "every parameter (nn.ModuleList, nn.ParameterList) and compute all else in forward "
        f"{SWITCH}"
    )


def _refuse_other_gradient(name: str, gradient: Tensor | None, plain: Tensor | None) -> None:
    if close(gradient, plain):
        return
    if gradient is None or plain is None:
        how = "is missing" if gradient is None else "is there where the plain network has none"
    else:
        error = (gradient - plain).double().norm() / plain.double().norm().clamp_min(1e-300)
        how = f"is off by {float(error):.1g} of its norm"
    raise ImpureError(
        f"the gradient of {name} {how}, though all outputs are equal: something cuts or changes "
        "the way back (a tensor kept from an earlier call, a function that reads weights when "
        "backward runs, activation checkpointing with several samples a pass: set "
        f"posterior.samples_per_pass to 1) {SWITCH}"
    )
