"""Proves that a network is a pure function of its weights and its input.

All else rests on it: a forward pass is run again in backward, on another rank, or with the weights
of another sample, and must say the same. Once, the pass of the first samples is run a second time
on a copy of the network that holds the drawn weights as its parameters, as plain torch would run
it. Outputs and gradients must be equal, buffers unchanged, and the random numbers of torch, Python
and numpy untouched. What fails is told by name.

It costs about four passes and one copy of the network.

Letters: S samples of the check, B examples.
"""

import contextlib
import copy
import logging
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hpc_bnn.bayes.culprit import Generators, first_differing_layer, refuse_random_numbers
from hpc_bnn.bayes.dropout import KeyedDropout
from hpc_bnn.bayes.held import Held, Weights, count_samples, held, in_one_pass, places_of
from hpc_bnn.bayes.impure import (
    ROUNDING_HALF,
    SWITCH,
    ImpureError,
    Surroundings,
    close,
    label,
    refuse_changed_buffers,
    refuse_changed_parameters,
    refuse_mixed_examples,
    refuse_other_gradients,
    rounding,
    taken,
)
from hpc_bnn.bayes.inputs import Inputs, count_examples, map_tensors, tensors_of

log = logging.getLogger(__name__)


ROUNDING_AGAIN = 1e-6  # of the same operations in the same order
PULL = 1024.0  # what backward of the copy is pulled with: it must be linear


def check_pure(
    posterior: Held,
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
    parameters = {k: p.detach().clone() for k, p in module.named_parameters() if k not in drawn}
    generators = Generators()
    # On other weights and another batch first: what that call leaves behind shows in the next one.
    others = taken(x, [*range(1, examples), examples - 1])
    _run(posterior, {k: 1.25 * weight for k, weight in drawn.items()}, others, surroundings)
    for name, buffer in module.named_buffers():  # tables that a first call makes
        buffers.setdefault(name, buffer.clone())
    refuse_changed_parameters(module, parameters)
    del parameters
    with torch.set_grad_enabled(gradients):
        outputs = _with_weights(posterior, leaves, x, surroundings)
        refuse_changed_buffers(module, buffers)
        refuse_random_numbers(generators, twin, x, surroundings)
        with _is_called(module) as original:
            try:
                plain, plain_gradients = _as_parameters(twin, leaves, x, surroundings)
            except Exception:  # of a hook that looks for what another one has noted
                if not original:
                    raise
    if original:
        _compare_in_place(posterior, leaves, outputs, x, surroundings)
        return []
    if not close(outputs, plain):
        raise ImpureError(_describe_outputs(module, twin, leaves, x, surroundings))
    _refuse_memory(outputs, _run(posterior, leaves, x, surroundings))
    if not gradients:
        return []
    if outputs.dtype == plain.dtype:  # torch.vmap applies autocast to some operations only
        refuse_other_gradients({k: leaf.grad for k, leaf in leaves.items()}, plain_gradients)
    refuse_mixed_examples(twin, x, surroundings)
    unused = [name for name, leaf in leaves.items() if leaf.grad is None]
    if leaves and len(unused) == len(leaves):
        raise ImpureError(
            f"the outputs depend on none of the random weights ({', '.join(unused)}), so nothing "
            f"could be learned: is the input returned as it is, or an output detached? {SWITCH}"
        )
    return unused


@torch.no_grad()
def _run(posterior: Held, weights: Weights, x: Inputs, surroundings: Surroundings) -> Tensor:
    try:
        with surroundings():
            return posterior.apply_weights(x, weights)
    except RuntimeError as error:
        types = {str(t.dtype).removeprefix("torch.") for t in tensors_of(x)}
        own = {str(t.dtype).removeprefix("torch.") for t in weights.values()}
        if "dtype" not in str(error) or types == own:
            raise
        raise ValueError(
            f"the network cannot take x of {' and '.join(sorted(types))} with its weights of "
            f"{' and '.join(sorted(own))}: convert x in the data set, for example by x.float() "
            f"(torch says: {error})"
        ) from error


@contextlib.contextmanager
def _is_called(module: nn.Module) -> Iterator[list[nn.Module]]:
    """Note the layers of ``module`` that are called."""
    called: list[nn.Module] = []
    handles = [
        layer.register_forward_pre_hook(lambda layer, _: called.append(layer))
        for layer in module.modules()
    ]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


def _compare_in_place(
    posterior: Held, leaves: Weights, outputs: Tensor, x: Inputs, surroundings: Surroundings
) -> None:
    """Compare with the network itself where its copy calls it: a function or a hook in it holds it,
    and functions are not copied.
    """
    module = posterior.module
    before = {name: module.get_parameter(name).detach().clone() for name in leaves}
    rows = []
    with torch.no_grad():
        try:
            for sample in range(count_samples(leaves)):
                _load(module, leaves, sample)
                with surroundings():
                    rows.append(module(map_tensors(torch.clone, x)))
        finally:
            for name, value in before.items():
                module.get_parameter(name).copy_(value)
    if not close(outputs, torch.stack(rows)):
        raise ImpureError(_message_on_outputs(label("", module)))
    log.warning(
        "a function or a hook in the network holds the network itself, so that no copy can be "
        "compared with it: its gradients and examples are not checked"
    )


def _refuse_memory(outputs: Tensor, again: Tensor) -> None:
    """Compare two runs of the same pass, which no rounding makes differ but that of atomic sums."""
    bound = ROUNDING_AGAIN if rounding(outputs.dtype) < ROUNDING_HALF else ROUNDING_HALF
    a, b = (torch.nan_to_num(t.to(torch.complex128)) for t in (again, outputs))
    if a.shape != b.shape or bool((a - b).norm() > bound * b.norm()):
        raise ImpureError(
            "the network gives other outputs when it is run again on the same weights and input: "
            "it remembers earlier calls (a counter, a running mean), of which a rank makes more "
            f"or fewer on another grid. Compute all from the input {SWITCH}"
        )


def _with_weights(
    posterior: Held, leaves: Weights, x: Inputs, surroundings: Surroundings
) -> Tensor:
    """Return the outputs (S, B, ...) as training computes them; gradients go to the leaves."""
    # Deterministic parameters must not get a gradient here, since reductions wait for theirs.
    everything = {
        name: parameter.detach().clone().requires_grad_(parameter.requires_grad)
        for name, parameter in posterior.module.named_parameters()
        if name not in leaves
    }
    if count_samples(leaves) == 1:
        everything |= {name: leaf[0] for name, leaf in leaves.items()}
    with held(places_of(posterior.module, everything), everything):
        with surroundings() as dropout:
            outputs = posterior.apply_weights(x, leaves)
        with in_one_pass(count_samples(leaves)):
            _backward(_scalar(outputs), dropout)
    return outputs.detach()


def _as_parameters(
    twin: nn.Module, leaves: Weights, x: Inputs, surroundings: Surroundings
) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Return outputs (S, B, ...) and gradients (S, *shape) of the copy, one sample at a time."""
    samples = count_samples(leaves)
    outputs: list[Tensor] = []
    gradients: dict[str, list[Tensor]] = {name: [] for name in leaves}
    for name, leaf in leaves.items():  # of a frozen mean the scale is trained all the same
        twin.get_parameter(name).requires_grad_(leaf.requires_grad)
    for sample in range(samples):
        _load(twin, leaves, sample)
        twin.zero_grad(set_to_none=True)
        with surroundings() as dropout:
            output = twin(map_tensors(torch.clone, x))
        pull = PULL if rounding(output.dtype) < ROUNDING_HALF else 1.0
        _backward(pull * _scalar(output[None], sample=sample, samples=samples), dropout)
        outputs.append(output.detach())
        for name, each in gradients.items():
            gradient = twin.get_parameter(name).grad
            each += [] if gradient is None else [gradient.to_dense() / pull]
    joined = {k: torch.stack(each) if each else None for k, each in gradients.items()}
    return torch.stack(outputs), joined


@torch.no_grad()
def _load(network: nn.Module, leaves: Weights, sample: int) -> None:
    for name, leaf in leaves.items():
        network.get_parameter(name).copy_(leaf[sample])


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
    return _message_on_outputs(where)


def _message_on_outputs(where: str) -> str:
    return (
        f"{where} gives other outputs where the drawn weights are its parameters: it computes with "
        "weights that are not registered as its own (kept in a list, a closure or another module, "
        "or made from a parameter in __init__), or with what an earlier call left behind. Register "
        "every parameter (nn.ModuleList, nn.ParameterList) and compute all else in forward "
        f"{SWITCH}"
    )
