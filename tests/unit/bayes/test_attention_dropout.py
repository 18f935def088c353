"""Attention with keyed dropout is torch's own where nothing is dropped, softmax times a mask where
something is, and the masks belong to examples however the network lays its activations out.
"""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from hpc_bnn.bayes.attention_dropout import attend
from hpc_bnn.bayes.dropout import CALL_STRIDE, KeyedDropout
from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.bayes.impure import ImpureError
from hpc_bnn.bayes.noise import Purpose, Stream, uniforms

B, A, L, S, E = 6, 4, 5, 7, 8
WIDTH = A * E


def keyed(step: int = 0, sample: int = 0, *, examples: int = B, first: int = 0) -> KeyedDropout:
    stream = Stream(5, Purpose.DROPOUT, step, sample)
    return KeyedDropout(stream, examples=examples, first_example=first)


def numbers(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


Q, K, V = numbers(B, A, L, E), numbers(B, A, S, E, seed=2), numbers(B, A, S, E, seed=3)
BOOL = (numbers(L, S, seed=4) > -0.5).index_fill(0, torch.tensor([2]), False)  # query 2 sees none
MASKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bool": {"attn_mask": BOOL},
    "float": {"attn_mask": numbers(B, 1, L, S, seed=5)},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.7},
}


def nothing(weights: Tensor, p: float) -> Tensor:
    return weights


def written_out(
    query: Tensor, key: Tensor, value: Tensor, scale: Tensor, pairs: Tensor | None
) -> Tensor:
    """Attention of one example and head after the other. scale: (B, A, L, S)."""
    rows = []
    for b, a in itertools.product(range(B), range(A)):
        scores = torch.einsum("le,se->ls", query[b, a], key[b, a]) / math.sqrt(E)
        if pairs is not None:
            scores = torch.where(pairs, scores, -torch.inf)
        exponentials = scores.exp()
        weights = exponentials / exponentials.sum(1, keepdim=True).clamp_min(1e-300)
        rows.append((weights * scale[b, a]) @ value[b, a])
    return torch.stack(rows).view(B, A, L, E)


def expected_scale(p: float, call: int = 0) -> Tensor:
    noise = uniforms(Stream(5, Purpose.DROPOUT), (B, A, L, S), offset=call * CALL_STRIDE)
    return (noise >= p).double() / (1 - p)


@pytest.mark.parametrize("mask", MASKS)
def test_without_a_drop_it_is_the_attention_of_torch(mask: str) -> None:
    """Values and gradients, to 1e-12; also of a query that sees no key."""
    gradients = []
    for attention in (
        functional.scaled_dot_product_attention,
        lambda *args, **options: attend(nothing, *args, dropout_p=0.3, **options),
    ):
        leaves = [t.clone().requires_grad_() for t in (Q, K, V)]
        out = attention(*leaves, **MASKS[mask])
        (out * numbers(*out.shape, seed=9)).sum().backward()
        gradients.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*gradients[::-1], strict=True):
        assert ours.isfinite().all()
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pairs", [None, BOOL, torch.ones(L, S, dtype=torch.bool).tril()])
def test_it_is_softmax_times_the_documented_mask(pairs: Tensor | None) -> None:
    p = 0.3
    with keyed():
        got = functional.scaled_dot_product_attention(Q, K, V, pairs, p)
        again = functional.scaled_dot_product_attention(Q, K, V, attn_mask=pairs, dropout_p=p)
    assert torch.allclose(got, written_out(Q, K, V, expected_scale(p), pairs), rtol=0, atol=1e-12)
    assert torch.allclose(
        again, written_out(Q, K, V, expected_scale(p, 1), pairs), rtol=0, atol=1e-12
    )


def test_heads_that_share_keys() -> None:
    few = K[:, :2], V[:, :2]
    many = (each.repeat_interleave(2, 1) for each in few)
    with keyed():
        got = functional.scaled_dot_product_attention(Q, *few, dropout_p=0.3, enable_gqa=True)
    assert torch.allclose(got, written_out(Q, *many, expected_scale(0.3), None), rtol=0, atol=1e-12)


def test_a_mask_beside_a_causal_one_is_refused() -> None:
    with keyed(), pytest.raises(ValueError, match="attn_mask and is_causal"):
        functional.scaled_dot_product_attention(Q, Q, Q, BOOL[:, :L], 0.3, is_causal=True)


def kept(step: int = 0, sample: int = 0, *, p: float = 0.5, length: int = 60) -> Tensor:
    """Return which weights (B, A, L, L) are kept: those of equal keys, of values that tell them."""
    q = torch.zeros(B, A, length, 2, dtype=torch.float64)
    v = torch.eye(length, dtype=torch.float64).expand(B, A, length, length)
    with keyed(step, sample):
        functional.scaled_dot_product_attention(q, q, v, dropout_p=0.1)
        return functional.scaled_dot_product_attention(q, q, v, dropout_p=p) > 0


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_share_of_what_is_kept(p: float) -> None:
    share = kept(p=p).double()
    assert abs(float(share.mean()) - (1 - p)) < 5 * math.sqrt(p * (1 - p) / share.numel())


def test_masks_of_examples_heads_samples_steps_and_calls_are_independent() -> None:
    base = kept()
    q = torch.zeros(B, A, 60, 2, dtype=torch.float64)
    v = torch.eye(60, dtype=torch.float64).expand(B, A, 60, 60)
    with keyed():
        first = functional.scaled_dot_product_attention(q, q, v, dropout_p=0.5) > 0
    masks = {
        **{f"example {b}, head {a}": base[b, a] for b in range(B) for a in range(A)},
        **{f"sample {s}": kept(sample=s)[0, 0] for s in (1, 2)},
        "step": kept(step=1)[0, 0],
        "call": first[0, 0],
    }
    for (one, x), (other, y) in itertools.combinations(masks.items(), 2):
        z = float(((2.0 * x - 1) * (2.0 * y - 1)).mean()) * math.sqrt(x.numel())
        assert abs(z) < 5.5, (one, other)  # of 400 pairs


LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weights": {"need_weights": True, "average_attn_weights": False},
    "padding": {"key_padding_mask": True},
    "padding, weights": {"key_padding_mask": True, "need_weights": True},
    "causal": {"causal": True},
}


def network(layout: str, *, batch_first: bool, p: float = 0.3) -> tuple[nn.Module, Any]:
    """Return an attention and how it is called on (n, L, WIDTH), examples first."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(WIDTH, A, dropout=p, batch_first=batch_first).double()
    options = {"need_weights": False, **LAYOUTS[layout]}
    padding, causal = options.pop("key_padding_mask", False), options.pop("causal", False)

    def call(x: Tensor) -> Tensor:
        more = dict(options)
        if padding:  # of each example another number of tokens
            more["key_padding_mask"] = x[:, :, 0] > 1.5
        if causal:
            pairs = nn.Transformer.generate_square_subsequent_mask(L, dtype=x.dtype)
            more |= {"attn_mask": pairs, "is_causal": True}
        tokens = x if batch_first else x.transpose(0, 1)
        out, weights = attention(tokens, tokens, tokens, **more)
        out = out if batch_first else out.transpose(0, 1)
        return out if weights is None else torch.cat([out.flatten(1), weights.flatten(1)], 1)

    return attention, call


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_split_of_the_batch_gives_the_same_result(layout: str, batch_first: bool) -> None:
    attention, call = network(layout, batch_first=batch_first)
    x = numbers(B, L, WIDTH)
    with keyed(3, 2):
        whole = call(x)
    for sizes in ((3, 3), (2, 2, 2), (1,) * B, (4, 2)):
        parts, first = [], 0
        for size in sizes:
            with keyed(3, 2, examples=size, first=first):
                parts.append(call(x[first : first + size]))
            first += size
        assert torch.allclose(torch.cat(parts), whole, rtol=0, atol=1e-12)
    with torch.no_grad():
        attention.dropout = 0.0
        assert not torch.allclose(call(x), whole)


def test_layouts_and_weights_do_not_change_the_masks() -> None:
    x = numbers(B, L, WIDTH)
    outputs = []
    for layout, batch_first in itertools.product(("plain", "weights"), (True, False)):
        _, call = network(layout, batch_first=batch_first)
        with keyed(3, 2):
            outputs.append(call(x).flatten(1)[:, : L * WIDTH])
    for other in outputs[1:]:
        assert torch.allclose(other, outputs[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layer_that_drops_nothing_is_the_layer_of_torch(layout: str) -> None:
    _, call = network(layout, batch_first=True, p=0.0)
    x = numbers(B, L, WIDTH)
    with keyed():
        got = call(x)
    assert torch.equal(got, call(x))


def test_two_seeds_of_torch_give_one_answer_and_evaluation_drops_nothing() -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, A, 16, dropout=0.2, batch_first=True).double()
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    x, outputs = numbers(B, L, WIDTH), []
    for seed in range(2):
        torch.manual_seed(seed)
        with keyed():
            outputs.append(encoder(x))
    assert torch.equal(*outputs)
    with keyed(first=B):
        assert not torch.allclose(encoder(x), outputs[0])
    encoder.eval()
    with torch.no_grad():
        plain = encoder(x)
        with keyed():
            assert torch.allclose(encoder(x), plain, rtol=0, atol=1e-12)
    assert not torch.allclose(plain, outputs[0])


@pytest.mark.parametrize("reentrant", [True, False])
def test_what_backward_runs_again_repeats_its_masks(reentrant: bool) -> None:
    first, second = (network("plain", batch_first=False) for _ in range(2))
    gradients = []
    for recompute in (False, True):
        x = numbers(B, L, WIDTH).requires_grad_()
        with keyed() as dropout:
            if recompute:
                out = checkpoint(first[1], x, use_reentrant=reentrant)
                out = checkpoint(second[1], out, use_reentrant=reentrant)
            else:
                out = second[1](first[1](x))
        with dropout.in_backward():
            torch.autograd.backward(out.square().sum())
        gradients.append(x.grad)
    assert torch.allclose(*gradients, rtol=0, atol=1e-12)


class Encoder(nn.Module):
    """Attention with dropout, heads or tokens first where the examples should be."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.embed, self.layout = nn.Linear(3, WIDTH), layout
        self.attention = nn.MultiheadAttention(WIDTH, A, dropout=0.3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x)
        if self.layout == "examples":
            return self.attention(tokens, tokens, tokens, need_weights=False)[0].sum(1)
        heads = tokens.reshape(*x.shape[:2], 8, -1).permute(2, 0, 1, 3)
        mixed = functional.scaled_dot_product_attention(heads, heads, heads, dropout_p=0.3)
        return mixed.permute(1, 2, 0, 3).flatten(1)


def check(layout: str) -> None:
    posterior = Gaussian(Encoder(layout).double())
    key = posterior.key(0, [0])
    x = numbers(4, L, 3)
    posterior.check(key, x, gradients=True, surroundings=lambda: keyed(examples=4))


def test_the_check_of_the_network_finds_masks_that_do_not_belong_to_examples() -> None:
    check("examples")
    with pytest.raises(ImpureError, match=r"dropout on an activation .* first dimension does not"):
        check("heads")
