"""Weights wherever torch keeps them: random by default, used when drawn, and named where not."""

import copy
import logging
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import hpc_bnn as hb
from hpc_bnn.bayes.selection import fan_in, random_names
from hpc_bnn.models.mlp import MLP
from hpc_bnn.models.swin import Swin
from hpc_bnn.models.vit import ViT


def old_weight_norm(layer: nn.Module, **how: int | None) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        made: nn.Module = nn.utils.weight_norm(layer, **how)  # type: ignore[arg-type]
    return made


class Doubled(nn.Module):
    """A parametrization of a user's own."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def doubled(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Doubled())
    return layer


class Conv1D(nn.Module):
    """The linear layer of Hugging Face's GPT-2, which stores (in, out)."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Last(nn.Module):
    """The outputs of a recurrent or attention layer, of a cell after two steps."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor | tuple[Tensor, ...]
        if isinstance(self.layer, nn.MultiheadAttention):
            out = self.layer(x, x[..., :3], x[..., 1:])
        elif isinstance(self.layer, nn.RNNCellBase):
            out = self.layer(x, self.layer(x))
        else:
            out = self.layer(x)
        return out[0] if isinstance(out, tuple) else out


# Name: network, input, whether torch.vmap can run it.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool]] = {
    "weight_norm": (lambda: parametrizations.weight_norm(nn.Linear(4, 3)), (5, 4), True),
    "weight_norm of a convolution": (
        lambda: parametrizations.weight_norm(nn.Conv1d(4, 3, 2)),
        (5, 4, 6),
        True,
    ),
    "weight_norm of all": (
        lambda: parametrizations.weight_norm(nn.Linear(4, 3), dim=None),  # type: ignore[arg-type]
        (5, 4),
        True,
    ),
    "weight_norm of a recurrent layer": (
        lambda: Last(parametrizations.weight_norm(nn.GRU(4, 3, batch_first=True), "weight_hh_l0")),
        (5, 6, 4),
        False,
    ),
    "weight_norm of old": (lambda: old_weight_norm(nn.Linear(4, 3)), (5, 4), True),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(4, 3)), (5, 4), True),
    "own parametrization": (lambda: doubled(nn.Linear(4, 3)), (5, 4), True),
    "Conv1D": (lambda: Conv1D(3, 4), (5, 4), True),
    "parametrized Conv1D": (lambda: doubled(Conv1D(3, 4)), (5, 4), True),
    "LSTM": (lambda: Last(nn.LSTM(4, 3, batch_first=True)), (5, 6, 4), False),
    "deep LSTM": (
        lambda: Last(nn.LSTM(4, 3, 2, bidirectional=True, proj_size=2, batch_first=True)),
        (5, 6, 4),
        False,
    ),
    "GRU": (lambda: Last(nn.GRU(4, 3, batch_first=True)), (5, 6, 4), False),
    "RNN": (lambda: Last(nn.RNN(4, 3, batch_first=True)), (5, 6, 4), False),
    "LSTMCell": (lambda: Last(nn.LSTMCell(4, 3)), (5, 4), False),
    "GRUCell": (lambda: Last(nn.GRUCell(4, 3)), (5, 4), True),
    "RNNCell": (lambda: Last(nn.RNNCell(4, 3)), (5, 4), True),
    "attention": (
        lambda: Last(nn.MultiheadAttention(4, 2, kdim=3, vdim=3, batch_first=True)),
        (5, 6, 4),
        True,
    ),
    "transformer": (
        lambda: nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True),
        (5, 6, 4),
        True,
    ),
}


def network(kind: str) -> nn.Module:
    torch.manual_seed(3)
    return NETWORKS[kind][0]()


def random_input(kind: str) -> Tensor:
    return torch.randn(NETWORKS[kind][1], generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_sample_as_an_ordinary_module(kind: str) -> None:
    """Without parametrizations, so that others can store, trace or train it."""
    module, x = network(kind).double(), random_input(kind).double()
    posterior = hb.Gaussian(module, initial_sigma=0.5, seed=1)
    expected = posterior.predict(x, samples=1, first=3)[0]
    module(x).sum().backward()  # the old weight_norm keeps what it computed, with its history
    ordinary = posterior.to_module(3)
    assert torch.allclose(ordinary(x), expected, rtol=0, atol=1e-12)
    assert not any(parametrize.is_parametrized(layer) for layer in ordinary.modules())
    leaves = {name.rpartition(".")[2] for name, _ in ordinary.named_parameters()}
    assert not {leaf for leaf in leaves if leaf.startswith("original") or leaf.endswith("_g")}
    with torch.no_grad():  # in both passes of the tracer, which compares them
        traced = torch.jit.trace(ordinary, x)
        assert torch.allclose(traced(x), expected, rtol=0, atol=1e-12)
    ordinary(x).sum().backward()
    assert any(p.grad is not None for p in ordinary.parameters())
    assert torch.equal(module(x), network(kind).double()(x))  # the posterior has its means still


@pytest.mark.parametrize("kind", NETWORKS)
def test_all_weights_are_random_and_used_as_drawn(kind: str) -> None:
    """By value: a copy of the network that holds the drawn numbers gives the same outputs."""
    module, x = network(kind), random_input(kind)
    expected = {name for name, _ in module.named_parameters() if "norm" not in name}
    posterior = hb.Gaussian(module, initial_sigma=0.5, seed=1)
    assert set(posterior.names) == expected
    draws = posterior.key(0, (0, 1))
    weights = posterior.sample(draws)
    one_by_one = torch.cat([posterior(x, posterior.key(0, (s,))) for s in (0, 1)])
    for s in (0, 1):
        copied = network(kind)
        with torch.no_grad():
            for name, weight in weights.items():
                copied.get_parameter(name).copy_(weight[s])
        assert torch.allclose(one_by_one[s], copied(x), atol=1e-6)
    one_by_one.sum().backward()
    unused = [
        name
        for name, parameter in posterior.named_parameters()
        # The bias of keys adds the same to all scores of a query.
        if parameter.grad is None or ("in_proj_bias" not in name and not parameter.grad.any())
    ]
    assert [name for name in unused if "original0" not in name or "orth" not in kind] == []
    assert torch.equal(module(x), network(kind)(x))  # the means are in their places again
    if NETWORKS[kind][2]:
        assert torch.allclose(posterior(x, draws), one_by_one, atol=1e-5)
    else:
        with pytest.raises(
            ValueError, match=r"posterior\.samples_per_pass: .*vmap.*set samples_per"
        ):
            posterior(x, draws)


@pytest.mark.parametrize(
    ("kind", "name", "inputs"),
    [
        ("weight_norm", "parametrizations.weight.original0", 1),
        ("weight_norm", "parametrizations.weight.original1", 4),
        ("weight_norm", "bias", 4),
        ("weight_norm of a convolution", "parametrizations.weight.original0", 1),
        ("weight_norm of a convolution", "parametrizations.weight.original1", 8),
        ("weight_norm of a convolution", "bias", 8),
        ("weight_norm of all", "parametrizations.weight.original0", 1),
        ("weight_norm of old", "weight_g", 1),
        ("weight_norm of old", "weight_v", 4),
        ("weight_norm of old", "bias", 4),
        ("orthogonal", "parametrizations.weight.original", 4),
        ("orthogonal", "bias", 4),
        ("Conv1D", "weight", 4),
        ("Conv1D", "bias", 4),
        ("parametrized Conv1D", "parametrizations.weight.original", 4),
        ("deep LSTM", "layer.weight_ih_l1_reverse", 4),
        ("LSTMCell", "layer.bias_hh", 3),
    ],
)
def test_fan_in_of_every_place(kind: str, name: str, inputs: int) -> None:
    assert fan_in(network(kind), name) == inputs


def test_fan_in_under_weight_norm_of_transposed_and_narrow_layers() -> None:
    up = parametrizations.weight_norm(nn.ConvTranspose2d(4, 6, 3, groups=2))
    assert fan_in(up, "parametrizations.weight.original1") == 4 // 2 * 3 * 3
    assert fan_in(up, "parametrizations.weight.original0") == 1
    for inputs, outputs in ((1, 5), (5, 1)):
        narrow = parametrizations.weight_norm(nn.Linear(inputs, outputs))
        assert fan_in(narrow, "parametrizations.weight.original1") == inputs
        assert fan_in(narrow, "bias") == inputs
        assert fan_in(nn.Linear(inputs, outputs), "bias") == inputs
    nested = nn.Sequential(nn.Sequential(parametrizations.weight_norm(nn.Linear(7, 2))))
    assert fan_in(nested, "0.0.parametrizations.weight.original1") == 7


@pytest.mark.parametrize("of_old", [False, True])
def test_spectral_norm_is_refused_by_name(of_old: bool) -> None:
    norm = nn.utils.spectral_norm if of_old else parametrizations.spectral_norm
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(norm(nn.Linear(3, 2))))
    for patterns in (None, ["0.weight"]):
        with pytest.raises(ValueError, match=r"^1\.0\.weight is under spectral_norm.*weight_norm"):
            random_names(model, patterns)
    with pytest.raises(ValueError, match=r"^weight is under spectral_norm"):
        random_names(norm(nn.Linear(3, 2)))


def test_weights_that_are_no_numbers_are_refused() -> None:
    lazy = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"0\.weight has no shape yet \(LazyLinear\): run the net"):
        random_names(lazy)
    lazy(torch.zeros(1, 4))
    assert len(random_names(lazy)) == 4
    with pytest.raises(ValueError, match=r"weight is complex64: random weights are real"):
        random_names(nn.Linear(2, 2, dtype=torch.complex64))


class Mixed(nn.Module):
    """A linear layer beside parameters of its own."""

    def __init__(self, **own: tuple[int, ...]) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)
        for name, shape in own.items():
            setattr(self, name, nn.Parameter(torch.randn(shape)))


class Lookup(nn.Module):
    """An embedding of a user's own, which no rule may take for a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(50, 4))
        self.bias = nn.Parameter(torch.zeros(4))


def warned(module: nn.Module, caplog: pytest.LogCaptureFixture) -> str:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "hpc_bnn"):
        hb.Gaussian(module)
    return "\n".join(record.getMessage() for record in caplog.records)


def test_deterministic_weights_of_other_layers_are_told(caplog: pytest.LogCaptureFixture) -> None:
    told = warned(Mixed(mixing=(40, 30), gate=(2, 5, 2), gain=(2,)), caplog)
    assert told.count("\n") == 0
    assert "12 of 1,234 numbers (0 %) are random; deterministic: mixing (1,200), gate (20)" in told
    assert "random=[...]" in told
    told = warned(nn.Sequential(Lookup(), nn.Linear(4, 3)), caplog)
    assert "15 of 219 numbers (6 %) are random; deterministic: 0.weight (200)" in told
    assert "deterministic: scale (13)" in warned(Mixed(scale=(13,)), caplog)
    five = {f"matrix{i}": (2, 2 + i) for i in range(6)}
    assert "matrix5 (14), matrix4 (12), matrix3 (10), matrix2 (8) and 2 more" in warned(
        Mixed(**five), caplog
    )


def test_ordinary_networks_are_quiet(caplog: pytest.LogCaptureFixture) -> None:
    ordinary: list[nn.Module] = [
        Mixed(pos_embed=(1, 50, 3), cls_token=(1, 1, 3), gamma=(3,), logit_scale=(2, 1, 1)),
        Mixed(relative_position_bias_table=(30, 2), rel_pos_h=(9, 3), pe=(20, 3)),
        nn.Sequential(nn.Embedding(500, 3), nn.LayerNorm(3), nn.RMSNorm(3), nn.Linear(3, 2)),
        nn.Sequential(nn.LayerNorm([20, 20]), nn.Linear(20, 1), nn.PReLU(3)),
        nn.Transformer(8, 2, 1, 1, 16),
        ViT((3, 32, 32), (10,)),
        Swin((2, 32, 64), (2, 32, 64), width=8, depths=(2, 2, 2, 2), heads=(2, 4, 4, 2)),
        MLP((5,), (3,)),
    ]
    for module in ordinary:
        assert warned(module, caplog) == ""


def test_names_of_ones_own_are_no_reason_to_warn(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Mixed(mixing=(40, 30))
    with caplog.at_level(logging.WARNING, "hpc_bnn"):
        hb.Gaussian(module, random=["head.*"])
    assert caplog.text == ""
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    assert warned(module, caplog) == ""  # rank 0 says it
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    assert "mixing" in warned(module, caplog)


def test_a_copy_draws_the_same() -> None:
    posterior = hb.Gaussian(network("weight_norm"), seed=2)
    x = random_input("weight_norm")
    other = copy.deepcopy(posterior)
    assert torch.equal(posterior(x, posterior.key(0, (0,))), other(x, other.key(0, (0,))))
