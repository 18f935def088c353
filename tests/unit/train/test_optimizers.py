"""The optimizers of a run: they are PyTorch's, step for step, and hold what they should."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from hpc_bnn.bayes import POSTERIORS
from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.config import CONFIGS, SettingsError, check_options, load_settings
from hpc_bnn.losses import gaussian_nll
from hpc_bnn.train.run.build import GIVEN_TO_OPTIMIZERS, check_choices, resolved
from hpc_bnn.train.run.optimizers import OPTIMIZERS, SGD, STATE, Adam

KINDS: dict[str, tuple[type[optim.Optimizer], type[optim.Optimizer], dict[str, Any]]] = {
    "adam": (Adam, optim.Adam, {}),
    "sgd": (SGD, optim.SGD, {"momentum": 0.9, "nesterov": True}),
}


def trained(
    kind: type[optim.Optimizer], options: dict[str, Any], *, resumed_at: int | None = None
) -> Tensor:
    """Return weights after six steps, with an optimizer made anew and loaded in between."""
    weight = torch.linspace(-1, 1, 7, requires_grad=True)
    optimizer = kind([weight], lr=0.1, fused=True, **options)
    for step in range(6):
        if step == resumed_at:
            state = optimizer.state_dict()
            optimizer = kind([weight], lr=0.3, fused=True, **options)
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        (weight**3 - weight).sum().square().backward()
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize("name", KINDS)
def test_it_takes_the_steps_of_torch_and_is_resumed_like_it(name: str) -> None:
    own, known, options = KINDS[name]
    expected = trained(known, options)
    assert torch.equal(trained(own, options), expected)
    assert torch.equal(trained(own, options, resumed_at=3), expected)
    assert not torch.equal(expected, torch.linspace(-1, 1, 7))


class Rows(Gaussian):
    """A posterior with a member of each weight for three samples."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.rows = nn.ParameterDict(
            {"weight": nn.Parameter(torch.ones(3, 2, 2)), "bias": nn.Parameter(torch.ones(3, 2))}
        )

    def per_sample(self) -> Iterable[str]:
        return ["rows.weight", "rows.bias"]


def posterior() -> Rows:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    network[0].bias.requires_grad_(False)
    return Rows(network)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_holds_once_what_is_trained_of_posterior_and_loss(name: str) -> None:
    parts = posterior(), gaussian_nll(variance="learned")
    optimizer = OPTIMIZERS[name](*parts, lr=0.1)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    expected = {id(p) for part in parts for p in part.parameters() if p.requires_grad}
    assert len(held) == len(set(held)) == len(expected)
    assert set(held) == expected


def test_adamw_decays_matrices_of_the_network_and_nothing_else() -> None:
    """With gradients of zero, decay is all that moves a parameter: by the factor 1 - lr * decay."""
    parts, loss = posterior(), gaussian_nll(variance="learned")
    with torch.no_grad():
        for p in (*parts.parameters(), *loss.parameters()):
            p.fill_(2.0)
            p.grad = torch.zeros_like(p)
    OPTIMIZERS["adamw"](parts, loss, lr=0.1, weight_decay=0.5).step()
    moved = {name for name, p in parts.named_parameters() if not torch.all(p == 2.0)}
    assert moved == {"module.0.weight", "module.2.weight", "rows.weight"}
    assert torch.allclose(parts.get_parameter("module.0.weight"), torch.tensor(2.0 * 0.95))
    assert all(torch.all(p == 2.0) for p in loss.parameters())


def test_adamw_equals_that_of_torch() -> None:
    weights = []
    for kind in ("own", "torch"):
        torch.manual_seed(1)
        network = nn.Linear(3, 2, bias=False)
        held = Gaussian(network)
        if kind == "own":
            optimizer = OPTIMIZERS["adamw"](held, lr=0.1, weight_decay=0.3, beta1=0.8)
        else:
            groups = [
                {"params": [network.weight], "weight_decay": 0.3},
                {"params": [*held.log_sigma.values()], "weight_decay": 0.0},
            ]
            optimizer = optim.AdamW(groups, lr=0.1, betas=(0.8, 0.999), fused=True)
        for _ in range(3):
            optimizer.zero_grad()
            sum((p**3).sum() for p in held.parameters()).backward()
            optimizer.step()
        weights.append(torch.cat([p.detach().flatten() for p in held.parameters()]))
    assert torch.equal(*weights)


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(ValueError, match=r"optimizer\.nesterov = True: .*set optimizer\.momentum"):
        OPTIMIZERS["sgd"](posterior(), lr=0.1, momentum=0.0, nesterov=True)


def test_every_optimizer_has_options_that_a_file_can_hold_and_a_size() -> None:
    assert set(STATE) == set(OPTIMIZERS)
    for function in OPTIMIZERS.values():
        assert check_options("optimizer", function, {}, given=GIVEN_TO_OPTIMIZERS) == []


# The section of a settings file


def settings(*overrides: str) -> Any:
    return load_settings(CONFIGS / "mlp_series.yaml", overrides)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("optimizer.name=adan", "optimizer.name = 'adan': expected one of adam, adamw, sgd"),
        ("optimizer.beta3=0.9", "optimizer.beta3: unknown key; did you mean beta2?; known: beta1"),
        ("optimizer.beta1=1", "optimizer.beta1 = 1: input should be less than 1"),
        ("optimizer.lr=0.1", "optimizer.lr: unknown key"),
        ("optimizer={name: sgd, eps: 1}", "optimizer.eps: unknown key"),
        ("optimizer={name: sgd, nesterov: 1}", "optimizer.nesterov = 1: input should be a valid"),
    ],
)
def test_wrong_names_and_options_are_told(override: str, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_choices(settings(override), "my.yaml")
    (problem,) = caught.value.problems
    assert problem.startswith(f"my.yaml: {told}")


def test_the_section_is_resolved_and_may_be_left_out() -> None:
    bare = settings()
    assert bare.optimizer is None  # as runs of before have it
    check_choices(bare, "my.yaml")
    written = settings("optimizer={name: adam, beta1: 0.9, beta2: 0.999, eps: 1e-8}")
    check_choices(written, "my.yaml")
    assert resolved(bare).optimizer == resolved(written).optimizer == written.optimizer
    assert resolved(settings("optimizer.name=sgd")).optimizer.options == {
        "momentum": 0.9,
        "nesterov": False,
    }


class Mover(Gaussian):
    """A method that is a way of moving the parameters."""

    def optimizer(self, lr: float) -> optim.Optimizer | None:
        return optim.SGD(self.parameters(), lr)


def test_a_posterior_that_moves_its_parameters_takes_no_optimizer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(POSTERIORS, "mover", Mover)
    bare = settings("posterior.name=mover")
    check_choices(bare, "my.yaml")
    assert resolved(bare).optimizer is None
    with pytest.raises(SettingsError) as caught:
        check_choices(settings("posterior.name=mover", "optimizer.name=sgd"), "my.yaml")
    (problem,) = caught.value.problems
    assert problem == (
        "my.yaml: optimizer.name = 'sgd': posterior.name = 'mover' moves its parameters itself; "
        "leave the section optimizer out, or choose another posterior"
    )
