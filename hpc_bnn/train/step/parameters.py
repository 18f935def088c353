"""The tensors and settings of the parts of a step, by name: what ranks must agree on."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.losses.base import Loss


def named_parameters(
    posterior: Posterior, loss: Loss, optimizer: torch.optim.Optimizer
) -> dict[str, nn.Parameter]:
    """Return what is trained by name, having checked that the optimizer holds each of that once,
    and nothing that belongs to neither posterior nor loss.
    """
    named = {name: p for name, p in _all_parameters(posterior, loss) if p.requires_grad}
    times = Counter(id(p) for group in optimizer.param_groups for p in group["params"])
    for name, p in named.items():
        _refuse_hooks(name, p)
    twice = [name for name, p in named.items() if times[id(p)] > 1]
    if twice:
        raise ValueError(
            f"the optimizer holds {twice[0]} {times[id(named[twice[0]])]} times ({len(twice)} such "
            "parameters) and would step as often; posterior.parameters() has those of the network, "
            "too"
        )
    held = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, p in named.items() if id(p) not in held]
    if missing:
        raise ValueError(
            f"the optimizer does not hold {missing[0]} ({len(missing)} of {len(named)} "
            "parameters); build it from posterior.parameters() and, if the loss learns something, "
            "loss.parameters(); what is thawed or added later: optimizer.add_param_group"
        )
    # Frozen ones may be there: they have no gradient, and every optimizer of torch skips them.
    for _, p in _all_parameters(posterior, loss):
        held.pop(id(p), None)
    if held:
        shapes = ", ".join(str(tuple(p.shape)) for p in list(held.values())[:3])
        raise ValueError(
            f"the optimizer holds {len(held)} parameters that belong to neither posterior nor "
            f"loss, of shape {shapes}{', ...' if len(held) > 3 else ''}; build it from "
            "posterior.parameters() and loss.parameters() only"
        )
    return named


def _all_parameters(posterior: Posterior, loss: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    """Return every parameter once, under its first name."""
    of_loss = (("loss." + name, p) for name, p in loss.named_parameters())
    first: dict[int, tuple[str, nn.Parameter]] = {}
    for name, parameter in chain(posterior.named_parameters(), of_loss):
        first.setdefault(id(parameter), (name, parameter))
    return first.values()


class TrainingWatch:
    """Tells whether parameters were added, replaced, frozen, thawed or given to the optimizer.

    It looks at every step: it walks no tree, but reads the tables of the modules and the flags of
    the parameters.
    """

    def __init__(self, modules: Sequence[nn.Module], optimizer: torch.optim.Optimizer) -> None:
        layers = [layer for module in modules for layer in module.modules()]
        self._tables = [t.values() for x in layers for t in (x._parameters, x._modules)]
        self._parameters = [p for module in modules for p in module.parameters()]
        self._optimizer = optimizer
        self._entries = list(chain.from_iterable(self._tables))  # held, so that no id is used again
        self._before = self._look()

    def changed(self) -> bool:
        """Tell whether anything is other than when the watch was made."""
        return self._look() != self._before

    def _look(self) -> tuple[list[int], list[bool], list[int]]:
        return (
            list(map(id, chain.from_iterable(self._tables))),
            [p.requires_grad for p in self._parameters],
            [len(group["params"]) for group in self._optimizer.param_groups],
        )


def all_tensors(posterior: Posterior, loss: Loss) -> dict[str, Tensor]:
    """Return parameters and buffers by name."""
    return {**parameters_of(posterior, loss), **buffers_of(posterior, loss)}


def by_kind(
    posterior: Posterior, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors that are shared, and those that are per-sample."""
    per_sample = set(posterior.per_sample())
    shared = {name: tensor for name, tensor in tensors.items() if name not in per_sample}
    return shared, {name: tensor for name, tensor in tensors.items() if name in per_sample}


def parameters_of(posterior: Posterior, loss: nn.Module) -> dict[str, Tensor]:
    """Return what is trained and what is frozen, by name."""
    return {name: p.detach() for name, p in _all_parameters(posterior, loss)}


def buffers_of(posterior: Posterior, loss: Loss) -> dict[str, Tensor]:
    """Return the buffers by name; of sparse ones, indices and values."""
    of_loss = (("loss." + name, b) for name, b in loss.named_buffers())
    named = chain(posterior.named_buffers(), of_loss)
    return dict(chain.from_iterable(_dense(name, b.detach()) for name, b in named))


def _dense(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the memory that ``tensor`` consists of."""
    parts = {
        torch.sparse_coo: ("_indices", "_values"),
        torch.sparse_csr: ("crow_indices", "col_indices", "values"),
        torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
        torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
        torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
    }.get(tensor.layout)
    if parts is None:
        yield name, tensor
    else:
        yield from ((f"{name}.{part.strip('_')}", getattr(tensor, part)()) for part in parts)


def settings_of(
    posterior: Posterior, loss: Loss, named: dict[str, nn.Parameter]
) -> dict[str, object]:
    """Return what posterior and loss were set to, and the shapes of what is trained and of what is
    not.
    """
    settings = {**_plain_attributes(posterior, "posterior"), "loss": type(loss).__name__}
    for name, part in loss.named_modules(prefix="loss"):
        settings |= _plain_attributes(part, name)
    return settings | {
        f"{'parameter' if k in named else 'tensor'} {k}": shape_of(t)
        for k, t in all_tensors(posterior, loss).items()
    }


def shape_of(tensor: Tensor) -> tuple[tuple[int, ...], str]:
    """Return shape and dtype as plain values."""
    return tuple(tensor.shape), str(tensor.dtype)


def _plain_attributes(part: nn.Module, name: str) -> dict[str, object]:
    return {
        f"{name}.{key}": value
        for key, value in vars(part).items()
        if isinstance(value, bool | int | float | str) and not key.startswith("_")
    }


def _refuse_hooks(name: str, parameter: nn.Parameter) -> None:
    """Refuse hooks that would see the part of one pass and rank instead of the gradient."""
    after = getattr(parameter, "_post_accumulate_grad_hooks", None)
    hooks = [*(parameter._backward_hooks or {}).values(), *(after or {}).values()]
    if any(not str(getattr(hook, "__module__", "")).startswith("hpc_bnn.") for hook in hooks):
        raise ValueError(
            f"{name} has a gradient hook, which would see the part of each pass and rank instead "
            "of the gradient of the step; remove it: clip by clip_norm, or change gradients in "
            "optimizer.step"
        )
