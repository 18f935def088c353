"""Keyed dropout: masks that belong to (step, weight sample, example), so they are the same on any
grid of ranks.

While the mode is active, every ``torch.nn.functional.dropout`` of the network draws its mask from
keyed noise. The first dimension of a dropped activation must enumerate the examples of the batch,
possibly in several rows each (windows, tokens), example by example. Whatever else would take
numbers from torch's own generators is refused: they differ between ranks, and between the two
forward passes of a joint loss.

The number of dropout calls so far is kept as the seed of torch's own CPU generator, which a pass
under the mode does not use for anything else: activation checkpointing puts that generator back
when backward runs a part of the network again, and so the calls of that part find their own masks.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.nn import functional
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from hpc_bnn.bayes.attention_dropout import keyed_attention
from hpc_bnn.bayes.noise import Stream, bits

CALL_STRIDE = 1 << 40  # elements of noise set aside for each dropout call of a forward pass
_CALLS = torch.default_generator  # its seed is the number of dropout calls so far

CHANNELWISE = (functional.dropout1d, functional.dropout2d, functional.dropout3d)
_REFUSED = frozenset(
    [
        *(functional.alpha_dropout, functional.feature_alpha_dropout, functional.rrelu),
        *(torch.dropout, torch.dropout_, torch.feature_dropout, torch.feature_dropout_),
        *(torch.alpha_dropout, torch.alpha_dropout_),
        *(torch.feature_alpha_dropout, torch.feature_alpha_dropout_),
    ]
)
_RECURRENT = frozenset([torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu])
_GENERATED = frozenset(
    [
        *(torch.rand, torch.rand_like, torch.randn, torch.randn_like, torch.normal),
        *(torch.randint, torch.randint_like, torch.randperm, torch.multinomial, torch.poisson),
        *(torch.bernoulli, torch.Tensor.bernoulli, torch.Tensor.bernoulli_),
        *(torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.random_),
        *(torch.Tensor.exponential_, torch.Tensor.geometric_, torch.Tensor.multinomial),
        functional.gumbel_softmax,
    ]
)


def generator_states(device: torch.device) -> list[bytes]:
    """Return the states of torch's own generators: they move where a layer takes numbers there."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return [state.numpy().tobytes() for state in states]


def dropping_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of ``module`` that drop in training, by name; networks may also call
    ``torch.nn.functional.dropout`` themselves.
    """
    return {
        name: layer
        for name, layer in module.named_modules()
        if (isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0)
        or (isinstance(layer, nn.MultiheadAttention) and layer.dropout > 0)
    }


def leave_uncompiled() -> None:
    """Let torch.compile call what drops instead of compiling it anew for each pass, of which it
    holds the key and counts the calls.
    """
    # Not a decorator: it imports compilers, which takes seconds.
    if not getattr(KeyedDropout._drop, "_torchdynamo_disable", False):
        kept = torch.compiler.disable(KeyedDropout._drop)  # type: ignore[no-untyped-call]
        setattr(KeyedDropout, "_drop", kept)  # noqa: B010


def restart_calls() -> None:
    """Let the next calls have the masks of the first ones of the pass, unless it draws anew."""
    modes = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    if any(isinstance(mode, KeyedDropout) and not mode.draws_anew for mode in modes):
        _CALLS.manual_seed(0)


class KeyedDropout(TorchFunctionMode):
    """Replace the dropout of one forward pass by keyed masks.

    Parameters
    ----------
    stream
        Noise of this step and weight sample, purpose DROPOUT.
    examples
        Number of examples B in the batch of this rank.
    first_example
        Position of the first of them in the global batch.
    first_call
        Dropout calls of the forward pass before the mode is entered.

    Attributes
    ----------
    draws_anew
        Whether each step of a forecast drops something else where others would drop the same.

    Raises
    ------
    ValueError
        From the forward pass, where an activation's rows are not a multiple of B.
    NotImplementedError
        From the forward pass, for random layers whose mask cannot be keyed.
    """

    def __init__(
        self, stream: Stream, *, examples: int, first_example: int, first_call: int = 0
    ) -> None:
        super().__init__()
        self._stream, self._examples, self._first = stream, examples, first_example
        self._first_call = first_call
        self.draws_anew = False
        self._outer: Tensor | None = None
        self._end: int | None = None  # calls of the forward pass, known when it has ended

    def __enter__(self) -> "KeyedDropout":
        self._outer, self._end = torch.get_rng_state(), None
        _CALLS.manual_seed(self._first_call)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        self._end = _CALLS.initial_seed()
        with unset_fake_temporarily():  # a state has numbers, also where the network has none
            expected = torch.Generator().manual_seed(self._end).get_state()
            used = not torch.equal(torch.get_rng_state(), expected)
        assert self._outer is not None
        torch.set_rng_state(self._outer)
        if used and kind is None:
            raise NotImplementedError(
                "something in the network takes numbers from torch's own generator, which depends "
                "on the grid of ranks, or seeds it; make them with nn.functional.dropout"
            )

    def again(self) -> "KeyedDropout":
        """Return a mode that repeats the masks of the calls from now on, for a part of a forward
        pass that backward runs again.
        """
        again = copy.copy(self)
        again._first_call = _CALLS.initial_seed()
        return again

    @contextlib.contextmanager
    def in_backward(self) -> Iterator[None]:
        """Repeat the masks of the forward pass in those parts that backward runs again."""
        assert self._end is not None
        outer = torch.get_rng_state()
        _CALLS.manual_seed(self._end)
        try:
            with self._on():
                yield
        finally:
            torch.set_rng_state(outer)

    @contextlib.contextmanager
    def _on(self) -> Iterator[None]:
        super().__enter__()  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            super().__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.autograd.backward:
            with self._on():  # torch takes a mode off while the mode handles a call
                return _run_backward(*args, **kwargs)
        if func is functional.dropout or func in CHANNELWISE:
            return self._drop(*args, channelwise=func in CHANNELWISE, **kwargs)
        if func in _REFUSED and _in_training(args, kwargs):
            raise NotImplementedError(f"{func.__name__} has no keyed mask; use nn.Dropout")
        if func in _RECURRENT and _recurrent_dropout(args) > 0:
            raise NotImplementedError(
                f"dropout inside nn.{func.__name__.upper()} has no keyed mask; set dropout = 0 and "
                "stack layers with nn.Dropout between them"
            )
        if func in _GENERATED and kwargs.get("generator") is None:
            raise NotImplementedError(
                f"{func.__name__} takes its numbers from torch's own generator, which depends on "
                "the grid of ranks; make them with nn.functional.dropout"
            )
        attention = keyed_attention(func, self._drop)
        return (attention or func)(*args, **kwargs)

    def _drop(
        self,
        x: Tensor,
        p: float = 0.5,
        training: bool = True,
        inplace: bool = False,
        *,
        channelwise: bool = False,
    ) -> Tensor:
        if not training or p == 0.0 or x.numel() == 0:
            return x
        if x.dim() == 0 or x.shape[0] % self._examples:
            raise ValueError(
                f"dropout on an activation of shape {tuple(x.shape)}: the first dimension must "
                "hold the "
                f"{self._examples} examples of the batch, to give each its own keyed mask on "
                "any grid"
            )
        shape = (*x.shape[:2], *(1,) * (x.dim() - 2)) if channelwise else tuple(x.shape)
        call = _CALLS.initial_seed()
        if self._end is not None and call >= self._end:
            raise NotImplementedError(
                "dropout in a part of the network that backward runs again without putting torch's "
                "generator back: its mask would be another one; leave preserve_rng_state = True in "
                "torch.utils.checkpoint"
            )
        _CALLS.manual_seed(call + 1)
        scale = _scales(self._bits(shape, call * CALL_STRIDE, x.device), p, x.dtype)
        return x.mul_(scale) if inplace else x * scale

    def _bits(self, shape: tuple[int, ...], offset: int, device: torch.device) -> Tensor:
        """Return the noise of ``shape`` of a call that begins at ``offset`` of a stream."""
        first = self._first * (torch.Size(shape).numel() // self._examples)
        return bits(self._stream, shape, offset=offset + first, device=device)


def _scales(noise: Tensor, p: float, dtype: torch.dtype) -> Tensor:
    """Return 0 where the uniform of a word is less than ``p``, else 1 / (1 - p); ``noise``, the
    bits of the words, is overwritten.

    A uniform is the upper 24 bits of a word, so words from ``first`` on are kept, in the order of
    unsigned numbers: that of signed ones whose first bit is turned over.
    """
    first = math.ceil(float(np.float32(p)) * 2**24) << 8
    if first >= 1 << 32:
        return torch.zeros_like(noise, dtype=dtype)
    kept = noise.bitwise_xor_(-1 << 31).ge_(first - (1 << 31))
    if dtype != torch.float32:
        return kept.to(dtype).div_(1.0 - p)
    # In the memory of the bits: an activation is large, and another tensor of its size costs more
    # than the arithmetic.
    scale = np.float32(1) / np.float32(1.0 - p)
    return kept.mul_(int(scale.view(np.int32))).view(torch.float32)


def _run_backward(
    tensors: Tensor | Sequence[Tensor],
    grad_tensors: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    grad_variables: object = None,
    inputs: Tensor | Sequence[Tensor] | None = None,
) -> None:
    """Do what ``torch.autograd.backward`` does once it has handed over to a mode."""
    roots = (tensors,) if isinstance(tensors, Tensor) else tuple(tensors)
    if isinstance(grad_tensors, Tensor) or grad_tensors is None:
        grad_tensors = [grad_tensors] * len(roots)
    pulls = tuple(
        torch.ones_like(root) if pull is None else pull
        for root, pull in zip(roots, grad_tensors, strict=True)
    )
    to = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs or ())
    keep = create_graph if retain_graph is None else retain_graph
    torch.autograd.Variable._execution_engine.run_backward(
        roots, pulls, keep, create_graph, to, allow_unreachable=True, accumulate_grad=True
    )


def _in_training(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return the argument that torch.nn.functional calls ``training`` and torch ``train``."""
    third = args[2] if len(args) > 2 else False
    return bool(kwargs.get("training", kwargs.get("train", third)))


def _recurrent_dropout(args: tuple[Any, ...]) -> float:
    """Return p, or 0 outside training: the only float among the arguments, then ``training``."""
    position = next(i for i, value in enumerate(args) if isinstance(value, float))
    return float(args[position]) if args[position + 1] else 0.0
