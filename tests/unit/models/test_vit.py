"""The vision transformer: against torch's own encoder layers, its positions, drawn weights."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hpc_bnn.bayes import Gaussian
from hpc_bnn.bayes.selection import random_names
from hpc_bnn.models.vit import ViT, sin_cos_positions

TIGHT: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-12}
SMALL = {"width": 24, "depth": 2, "heads": 3}


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def vit(shape: tuple[int, int, int] = (3, 8, 12), classes: int = 5, **options: object) -> ViT:
    """Return a small network in float64 whose weights, those of the norms too, are all random."""
    torch.manual_seed(0)
    chosen: dict[str, Any] = {**SMALL, **options}
    network = ViT(shape, (classes,), **chosen).double()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return network


def by_torch(network: ViT, x: Tensor, patch: int, heads: int) -> Tensor:
    """Compute the network from a convolution and ``nn.TransformerEncoderLayer``."""
    channels, width = x.shape[1], network.embed.weight.shape[0]
    kernel = network.embed.weight.reshape(width, channels, patch, patch)
    tokens = torch.conv2d(x, kernel, network.embed.bias, stride=patch).flatten(2).transpose(1, 2)
    tokens = tokens + sin_cos_positions(x.shape[2] // patch, x.shape[3] // patch, width)
    for block in network.blocks:
        layer = nn.TransformerEncoderLayer(
            width,
            heads,
            4 * width,
            dropout=0.0,
            activation=nn.functional.gelu,
            batch_first=True,
            norm_first=True,
        ).double()
        mine = dict(block.named_parameters())
        theirs = {
            "self_attn.in_proj_weight": "qkv.weight",
            "self_attn.in_proj_bias": "qkv.bias",
            "self_attn.out_proj.weight": "project.weight",
            "self_attn.out_proj.bias": "project.bias",
            "linear1.weight": "mlp.0.weight",
            "linear1.bias": "mlp.0.bias",
            "linear2.weight": "mlp.2.weight",
            "linear2.bias": "mlp.2.bias",
            "norm1.weight": "attention_norm.weight",
            "norm1.bias": "attention_norm.bias",
            "norm2.weight": "mlp_norm.weight",
            "norm2.bias": "mlp_norm.bias",
        }
        layer.load_state_dict({there: mine[here] for there, here in theirs.items()})
        tokens = layer(tokens)
    normal = nn.functional.layer_norm(tokens, (width,), network.norm.weight, network.norm.bias)
    return nn.functional.linear(normal.mean(1), network.head.weight, network.head.bias)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_equals_the_encoder_layers_of_torch(patch: int) -> None:
    network, x = vit(patch=patch), images(4, 3, 8, 12)
    torch.testing.assert_close(network(x), by_torch(network, x, patch, heads=3), **TIGHT)


def test_positions_equal_the_formula() -> None:
    rows, columns, width = 3, 5, 16
    table = sin_cos_positions(rows, columns, width)
    assert table.shape == (15, 16)
    assert table.dtype == torch.float32
    for row in range(rows):
        for column in range(columns):
            for k in range(4):
                f = 10_000 ** (-k / 3)
                entry = table[row * columns + column]
                expected = [math.sin(column * f), math.cos(column * f)]
                expected += [math.sin(row * f), math.cos(row * f)]
                assert entry[k::4].tolist() == pytest.approx(expected, abs=1e-7)


def test_positions_are_no_parameters_and_tell_tokens_apart() -> None:
    network = vit(patch=2)
    assert not any("position" in name for name in network.state_dict())
    moved = images(1, 3, 8, 12).roll(2, -1)
    assert not torch.allclose(network(moved), network(images(1, 3, 8, 12)))
    assert len(sin_cos_positions(8, 8, 192).unique(dim=0)) == 64  # type: ignore[no-untyped-call]


def test_the_tiny_network_for_cifar10() -> None:
    """64 tokens; parameters counted by hand."""
    network = ViT((3, 32, 32), (10,))
    block = 2 * 2 * 192 + (192 + 1) * 576 + (192 + 1) * 192 + (192 + 1) * 768 + (768 + 1) * 192
    expected = (48 + 1) * 192 + 6 * block + 2 * 192 + (192 + 1) * 10
    assert sum(p.numel() for p in network.parameters()) == expected == 2_680_906
    assert network._positions.shape == (64, 192)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("output_shape", [(7,), (4, 2), ()])
def test_output_shapes(output_shape: tuple[int, ...]) -> None:
    network = ViT((1, 4, 4), output_shape, patch=2, width=8, depth=1, heads=1)
    assert network(torch.zeros(3, 1, 4, 4)).shape == (3, *output_shape)


# As torch says where vmap runs one sample after the other.
@pytest.mark.filterwarnings("error:There is a performance drop")
def test_samples_in_one_pass_equal_one_at_a_time() -> None:
    """Outputs and gradients under drawn weights, with one view of the batch a sample."""
    posterior, x = Gaussian(vit(patch=4), initial_sigma=0.05), images(3, 2, 3, 8, 12)
    together = posterior(x, posterior.key(0, range(3)), views=True)
    grads = torch.autograd.grad(together.square().sum(), list(posterior.parameters()))
    alone = torch.cat([posterior(x[s], posterior.key(0, [s])) for s in range(3)])
    torch.testing.assert_close(together, alone, **TIGHT)
    expected = torch.autograd.grad(alone.square().sum(), list(posterior.parameters()))
    torch.testing.assert_close(grads, expected, rtol=1e-9, atol=1e-9)


def test_norms_are_deterministic_and_all_else_is_random() -> None:
    names = random_names(vit())
    assert not any("norm" in name for name in names)
    assert len(names) == 2 + 2 * 8 + 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"patch": 3}, r"model\.patch = 3: must divide images of 8 x 12; what fits: 1, 2, 4$"),
        ({"patch": 0}, r"model\.patch = 0: must divide"),
        ({"width": 26, "heads": 2}, r"model\.width = 26: .* multiple of 4, .* such as 24 or 28"),
        ({"width": 4, "heads": 1}, r"model\.width = 4: .* at least 8, such as 8 or 12"),
        ({"heads": 5}, r"model\.heads = 5: must divide model\.width = 24; what fits: 1, 2, 3, 4, "),
        ({"heads": 0}, r"model\.heads = 0"),
        ({"depth": 0}, r"model\.depth = 0: must be at least 1"),
        ({"mlp_ratio": 0.0}, r"model\.mlp_ratio = 0\.0"),
        ({"mlp_ratio": math.inf}, r"model\.mlp_ratio = inf"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        vit(**options)


def test_only_images_are_taken() -> None:
    with pytest.raises(ValueError, match=r"model\.vit: input of shape \(168, 1\): .*\(C, H, W\)"):
        ViT((168, 1), (10,))
