"""Keyed dropout: masks that belong to (step, weight sample, example), so they are the same on any
grid of ranks.

While the mode is active, every ``torch.nn.functional.dropout`` of the network draws its mask from
keyed noise. The first dimension of a dropped activation must enumerate the examples of the batch,
possibly in several rows each (windows, tokens), example by example. Whatever else would take
numbers from torch's own generators is refused: they differ between ranks, and between the two
forward passes of a joint loss.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from hpc_bnn.bayes.noise import Stream, uniforms

CALL_STRIDE = 1 << 40  # elements of noise set aside for each dropout call of a forward pass

_CHANNELWISE = (functional.dropout1d, functional.dropout2d, functional.dropout3d)
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
        self._first_call = self._calls = first_call

    def __enter__(self) -> "KeyedDropout":
        self._calls = self._first_call
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def again(self) -> "KeyedDropout":
        """Return a mode that repeats the masks of the calls from now on, for a part of a forward
        pass that backward runs again.
        """
        return KeyedDropout(
            self._stream,
            examples=self._examples,
            first_example=self._first,
            first_call=self._calls,
        )

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.dropout or func in _CHANNELWISE:
            return self._drop(*args, channelwise=func in _CHANNELWISE, **kwargs)
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
                "the grid of ranks; make them with nn.functional.dropout, or pass generator="
            )
        if func is functional.scaled_dot_product_attention and _dropout_p(args, kwargs, 4) > 0:
            raise NotImplementedError(
                "dropout inside scaled_dot_product_attention has no keyed mask; set dropout_p = "
                "0 and drop its output"
            )
        attention = func is functional.multi_head_attention_forward
        if attention and kwargs.get("training", True) and _dropout_p(args, kwargs, 10) > 0:
            raise NotImplementedError(
                "dropout inside nn.MultiheadAttention has no keyed mask; set dropout = 0 and drop "
                "its output"
            )
        return func(*args, **kwargs)

    def _drop(
        self,
        x: Tensor,
        p: float = 0.5,
        training: bool = True,
        inplace: bool = False,
        *,
        channelwise: bool,
    ) -> Tensor:
        if not training or p == 0.0:
            return x
        if x.dim() == 0 or x.shape[0] % self._examples:
            raise ValueError(
                f"dropout on an activation of shape {tuple(x.shape)}: the first dimension must "
                "hold the "
                f"{self._examples} examples of the batch, to give each its own keyed mask on "
                "any grid"
            )
        shape = (*x.shape[:2], *(1,) * (x.dim() - 2)) if channelwise else tuple(x.shape)
        per_example = torch.Size(shape).numel() // self._examples
        offset = self._calls * CALL_STRIDE + self._first * per_example
        self._calls += 1
        keep = uniforms(self._stream, shape, offset=offset, device=x.device) >= p
        scale = keep.to(x.dtype) / (1.0 - p) if p < 1.0 else torch.zeros_like(x)
        return x.mul_(scale) if inplace else x * scale


def _in_training(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return the argument that torch.nn.functional calls ``training`` and torch ``train``."""
    third = args[2] if len(args) > 2 else False
    return bool(kwargs.get("training", kwargs.get("train", third)))


def _recurrent_dropout(args: tuple[Any, ...]) -> float:
    """Return p, or 0 outside training: the only float among the arguments, then ``training``."""
    position = next(i for i, value in enumerate(args) if isinstance(value, float))
    return float(args[position]) if args[position + 1] else 0.0


def _dropout_p(args: tuple[Any, ...], kwargs: dict[str, Any], position: int) -> float:
    return float(kwargs.get("dropout_p", args[position] if len(args) > position else 0.0))
