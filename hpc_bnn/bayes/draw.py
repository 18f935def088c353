"""The fused weight draw ``w = mu + exp(log_sigma) * eps`` as one autograd function that stores no
eps.

Backward makes the keyed noise again, so a draw costs no memory beyond the drawn weights themselves:

    dL/dmu = dL/dw,    dL/dlog_sigma = dL/dw * exp(log_sigma) * eps.

With ``keep`` the term exp(log_sigma) * eps of the forward pass is held until backward: one more
array of the size of the weights for one noise pass less.

Small tensors are taken together as one row of numbers, since a call costs as much as thousands of
weights. GPUs read the tensors of such a row where they lie; for CPUs they are copied into it.
Letters: S samples, N elements of all tensors of a group.
"""

from collections.abc import Iterator, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

from hpc_bnn.bayes.noise import DRAW, PULL, Key, Stream, backend, fill, normals

SMALL = 1 << 16  # elements from which on copying a tensor costs more than its own calls
TOGETHER = 1 << 18  # elements of a group: its gradients are ready together, so not too many
LAUNCH = 1 << 22  # the same where nothing is copied: a launch costs as much as a million weights


def _write_nothing(*_: object, **__: object) -> None:
    return


WITHOUT_NUMBERS = SimpleNamespace(draw=_write_nothing, pull=_write_nothing)


def apart(tensors: Sequence[Tensor]) -> ModuleType | SimpleNamespace | None:
    """Return the module whose ``draw`` and ``pull`` read ``tensors`` where they lie, all in one
    launch; None: they are to be copied into one row first.
    """
    if torch.compiler.is_compiling():
        return None
    module = backend(tensors[0].device)
    if not hasattr(module, "draw"):
        return None
    kinds = {type(tensor) for tensor in tensors}
    if not (kinds <= {Tensor, nn.Parameter} or kinds == {FakeTensor}):
        return None
    for tensor in tensors:
        if tensor.dtype != torch.float32 or not tensor.is_contiguous():
            return None
    return WITHOUT_NUMBERS if FakeTensor in kinds else module


def groups(
    tensors: Sequence[Tensor], kinds: Sequence[object], *, copied: bool = True
) -> Iterator[slice]:
    """Cut ``tensors`` into runs of small ones that are alike in dtype, device and ``kinds``, and
    large ones alone; GPUs take larger runs of what is not ``copied``.
    """
    in_place = not copied and tensors[0].device.type == "cuda"
    small, together = (LAUNCH, LAUNCH) if in_place else (SMALL, TOGETHER)
    first, size = 0, 0
    alike = [
        (tensor.dtype, tensor.device, kind) for tensor, kind in zip(tensors, kinds, strict=True)
    ]
    for position, tensor in enumerate(tensors):
        count = tensor.numel() if tensor.numel() <= small else together
        if position > first and (alike[position] != alike[first] or size + count > together):
            yield slice(first, position)
            first, size = position, 0
        size += count
    yield slice(first, len(tensors))


def flatten(tensors: Sequence[Tensor], *, samples: bool = False) -> Tensor:
    """Return the elements (N,) of all tensors in C order, those of a single one uncopied where it
    has that order; with ``samples`` (S, N) of tensors (S, ...).
    """
    if samples:  # a parameter of one number has no dimension behind that of the samples
        tensors = [tensor.unsqueeze(-1) for tensor in tensors]
    # Gradients of an embedding may be sparse.
    rows = [tensor.to_dense().flatten(int(samples)) for tensor in tensors]
    return rows[0].contiguous() if len(rows) == 1 else torch.cat(rows, -1)


def unflatten(row: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Return the tensors (..., *shape) of ``row`` (..., N) as views."""
    parts = torch.split_with_sizes(row, [shape.numel() for shape in shapes], -1)
    return [part.view((*row.shape[:-1], *shape)) for part, shape in zip(parts, shapes, strict=True)]


def draw_together(
    mus: Sequence[Tensor] | Tensor,
    log_sigmas: Sequence[Tensor],
    key: Key,
    offset: int = 0,
    *,
    antithetic: bool = False,
    keep: bool = False,
) -> tuple[Tensor, ...]:
    """Return the drawn weights (S, *mu.shape) of tensors whose noise follows on each other, from
    ``offset`` of each stream on.

    The noise belongs to the position of an element in C order, whatever the memory format of a
    tensor. With ``antithetic``, samples 2j and 2j + 1 are the mirrored pair mu +- sigma * eps_j.
    Where each sample has means of its own, ``mus`` is their tensor (S, N).
    """
    rows, mus = (mus, ()) if isinstance(mus, Tensor) else (None, mus)
    noise = key, antithetic, offset
    weights: tuple[Tensor, ...] = _Draw.apply(*noise, keep, rows, *mus, *log_sigmas)  # type: ignore[no-untyped-call]
    return weights


def signed_streams(key: Key, *, antithetic: bool) -> list[tuple[Stream, float]]:
    """Return the stream of each sample and the sign of its noise, -1 for the second of a pair."""
    if antithetic:  # which of a pair a sample is
        key = key.resolved()
    pairs = [divmod(sample, 2) if antithetic else (sample, 0) for sample in key.samples]
    return [
        (Stream(key.seed, key.purpose, key.step, sample, key.shift), 1.0 - 2.0 * second)
        for sample, second in pairs
    ]


class _Draw(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        key: Key,
        antithetic: bool,
        offset: int,
        keep: bool,
        rows: Tensor | None,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        count = 0 if rows is not None else len(parameters) // 2
        mus, log_sigmas = parameters[:count], parameters[count:]
        ctx.noise, ctx.has_rows = (key, antithetic, offset), rows is not None
        ctx.dtype = mus[0].dtype if rows is None else rows.dtype
        # The wider of the two: a network in half precision is drawn in float32 and rounded.
        wide = torch.promote_types(ctx.dtype, log_sigmas[0].dtype)
        shape = len(key.samples), sum(log_sigma.numel() for log_sigma in log_sigmas)
        out = _aligned_rows(shape, wide, log_sigmas[0].device)
        ctx.kept = _aligned_rows(shape, wide, out.device) if keep else None
        in_place = apart(parameters if rows is None else [rows, *log_sigmas])
        if in_place is not None:
            means = mus if rows is None else rows
            in_place.draw(out, means, log_sigmas, key, offset, antithetic=antithetic, keep=ctx.kept)
        else:
            means = flatten(mus)[None] if rows is None else rows
            log_sigma = flatten(log_sigmas).to(wide)
            _draw_row(out, ctx.kept, means.to(wide).expand(shape), log_sigma, *ctx.noise)
        ctx.save_for_backward(*log_sigmas)
        return tuple(unflatten(out.to(ctx.dtype), [log_sigma.shape for log_sigma in log_sigmas]))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        log_sigmas = ctx.saved_tensors
        narrow = log_sigmas[0].dtype
        wide = torch.promote_types(ctx.dtype, narrow)
        grad = flatten(grads, samples=True).to(wide)
        if ctx.kept is not None:
            pulled, ctx.kept = _over_samples(ctx.kept.mul_(grad)), None
        else:
            pulled = _pulled(grad, log_sigmas, *ctx.noise)
        shapes = [log_sigma.shape for log_sigma in log_sigmas]
        to_log_sigmas = unflatten(pulled.to(narrow), shapes)
        if ctx.has_rows:
            return *[None] * 4, grad.to(ctx.dtype), *to_log_sigmas
        to_mus = unflatten(_over_samples(grad).to(ctx.dtype), shapes)
        return *[None] * 5, *to_mus, *to_log_sigmas


def _aligned_rows(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return memory for (S, N) whose rows begin at multiples of four elements."""
    rows, count = shape
    return torch.empty((rows, -(-count // 4) * 4), dtype=dtype, device=device)[:, :count]


def _draw_row(
    out: Tensor,
    kept: Tensor | None,
    means: Tensor,
    log_sigma: Tensor,
    key: Key,
    antithetic: bool,
    offset: int,
) -> None:
    """Fill ``out`` (S, N) and ``kept`` from ``means`` (S, N) and ``log_sigma`` (N,)."""
    for i, (stream, sign) in enumerate(signed_streams(key, antithetic=antithetic)):
        mu, shift = means[i], None if kept is None else kept[i]
        if mu.dtype == torch.float32:
            one = out[i]
            fill(DRAW, one, stream, offset, sign=sign, mu=mu, log_sigma=log_sigma, keep=shift)
        else:
            noise = _eps_like(mu, stream, offset, sign).mul_(torch.exp(log_sigma))
            torch.add(mu, noise, out=out[i])
            if shift is not None:
                shift.copy_(noise)


def _pulled(
    grad: Tensor, log_sigmas: Sequence[Tensor], key: Key, antithetic: bool, offset: int
) -> Tensor:
    """Return the gradient of all log_sigma (N,), summed over the samples of ``grad`` (S, N)."""
    total = torch.empty_like(grad[0])
    in_place = apart([grad, *log_sigmas])
    if in_place is not None:
        in_place.pull(total, grad, log_sigmas, key, offset, antithetic=antithetic)
        return total
    log_sigma = flatten(log_sigmas).to(grad.dtype)
    streams = signed_streams(key, antithetic=antithetic)
    _pull(total, grad[0], log_sigma, streams[0], offset)
    for i in range(1, len(streams)):
        part = torch.empty_like(log_sigma)
        _pull(part, grad[i], log_sigma, streams[i], offset)
        total += part
    return total


def _over_samples(grad: Tensor) -> Tensor:
    return grad[0] if len(grad) == 1 else grad.sum(0)


def _pull(
    out: Tensor, grad: Tensor, log_sigma: Tensor, stream: tuple[Stream, float], offset: int
) -> None:
    if out.dtype == torch.float32:
        fill(PULL, out, stream[0], offset, sign=stream[1], grad=grad, log_sigma=log_sigma)
    else:
        eps = _eps_like(out, stream[0], offset, stream[1])
        torch.mul(grad, torch.exp(log_sigma) * eps, out=out)


def _eps_like(like: Tensor, stream: Stream, offset: int, sign: float) -> Tensor:
    """Return the float32 normals of the stream in the dtype of ``like``."""
    return normals(stream, like.shape, offset=offset, sign=sign, device=like.device).to(like.dtype)
