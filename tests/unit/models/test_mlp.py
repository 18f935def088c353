"""The multilayer perceptron: shapes, layers and refused settings."""

import pytest
import torch
from torch import nn

from hpc_bnn.models.mlp import MLP


@pytest.mark.parametrize(
    ("input_shape", "output_shape"),
    [((5,), (2,)), ((6, 3), (4, 3)), ((1, 8, 8), (10,)), ((2,), ())],
)
def test_shapes(input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> None:
    network = MLP(input_shape, output_shape, hidden=[7])
    assert network(torch.zeros(3, *input_shape)).shape == (3, *output_shape)


def test_computes_linear_layers_with_the_activation_between() -> None:
    network = MLP((3,), (2,), hidden=[4], activation="tanh").double()
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first, _, second = network.layers
    expected = torch.tanh(x @ first.weight.T + first.bias) @ second.weight.T + second.bias
    assert torch.allclose(network(x), expected, rtol=1e-12, atol=1e-12)


def test_no_hidden_layer_is_a_linear_model() -> None:
    network = MLP((3,), (2,), hidden=[])
    assert [type(layer) for layer in network.layers] == [nn.Linear]


def test_dropout_follows_every_hidden_layer() -> None:
    network = MLP((3,), (2,), hidden=[4, 4], dropout=0.25)
    assert [type(layer).__name__ for layer in network.layers] == [
        *("Linear", "ReLU", "Dropout"),
        *("Linear", "ReLU", "Dropout"),
        "Linear",
    ]
    assert network.layers[2].p == 0.25
    assert not any(isinstance(layer, nn.Dropout) for layer in MLP((3,), (2,)).layers)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"activation": "swish"}, r"model\.activation = 'swish': expected one of relu, gelu, tanh"),
        ({"hidden": [4, 0]}, r"model\.hidden = \[4, 0\]: widths must be at least 1"),
        ({"dropout": 1.0}, r"model\.dropout = 1\.0: must be at least 0 and less than 1"),
        ({"dropout": -0.1}, r"model\.dropout = -0\.1"),
    ],
)
def test_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        MLP((3,), (2,), **options)  # type: ignore[arg-type]
