"""Chains as a posterior: what they predict with, what they tell of themselves, what they refuse."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hpc_bnn as hb
from hpc_bnn.bayes.convergence import effective_samples, split_r_hat
from hpc_bnn.bayes.noise import Purpose
from hpc_bnn.group import ALONE
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World

K = 3
X = torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3)
SOLO = World(Grid(1, 1, 0), torch.device("cpu"))


def chains(method: type[hb.SGHMC] = hb.SGHMC, **options: Any) -> hb.SGHMC:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    chosen = {"samples": K, "burn_in": 2, "collect_every": 2, "snapshots": 4, "seed": 5, **options}
    return method(network, **chosen)


def step_of(posterior: hb.SGHMC, optimizer: torch.optim.Optimizer | None = None) -> hb.Step:
    optimizer = posterior.optimizer(lr=0.1) if optimizer is None else optimizer
    return hb.Step(
        posterior, hb.losses.gaussian_nll(sigma=0.5), optimizer, SOLO,
        samples=K, num_examples=20, precision="float64", check=False,
    )  # fmt: skip


def states_of(posterior: hb.SGHMC, steps: int) -> list[Tensor]:
    """Train; return the states (K, P) before each step and after the last."""
    step, found = step_of(posterior), []
    for _ in range(steps):
        found.append(flat(posterior))
        step(X, X[:, :2].sin())
    return [*found, flat(posterior)]


def flat(posterior: hb.SGHMC) -> Tensor:
    return torch.cat([rows.detach().flatten(1) for rows in posterior.rows.values()], 1).clone()


def predicted(posterior: hb.SGHMC, *samples: int) -> Tensor:
    """Return the weights (len(samples), P) that these samples of a prediction are."""
    drawn = posterior.sample(posterior.key(0, samples, Purpose.PREDICTION))
    return torch.cat([weights.detach().flatten(1) for weights in drawn.values()], 1)


def test_predictions_are_the_snapshots_from_the_newest_back() -> None:
    posterior = chains()
    assert torch.equal(predicted(posterior, 0, 2), flat(posterior)[[0, 2]])
    assert posterior.prediction_samples(64) == K
    states = states_of(posterior, 9)  # kept after steps 4, 6 and 8
    assert posterior.snapshots.count == 3
    assert posterior.prediction_samples(64) == 3 * K
    assert posterior.prediction_samples(5) == 5
    expected = torch.cat([states[8], states[6], states[4]])
    assert torch.equal(predicted(posterior, *range(3 * K)), expected)
    assert torch.equal(predicted(posterior, 4), states[6][1:2])
    training = posterior.sample(posterior.key(3, (1,)))
    assert torch.equal(training["0.weight"][0].flatten(), states[9][1, :12])
    outputs = posterior.predict(X, samples=3 * K)
    for sample in (0, 4, 8):
        assert torch.equal(posterior.network(sample)(X), outputs[sample])
    with pytest.raises(ValueError, match="this posterior has 9 weight samples to predict with"):
        posterior.predict(X, samples=3 * K + 1)


def test_snapshots_come_after_burn_in_and_in_the_sampling_part_of_a_cycle() -> None:
    posterior = chains(burn_in=3, collect_every=1, snapshots=16, cycle=4, exploration=0.5)
    states = states_of(posterior, 12)
    kept = torch.cat([d.flatten(2) for d in posterior.snapshots.draws().values()], 2)
    # Steps 2, 3 of each cycle of 4 sample; step 2 is in burn-in.
    assert torch.equal(kept, torch.stack([states[n] for n in (4, 7, 8, 11, 12)], 1))


def test_rows_and_snapshots_are_those_of_the_chains_held() -> None:
    posterior = chains()
    states_of(posterior, 6)
    whole = predicted(posterior, 1, 2, 4, 5)
    posterior.hold(range(1, 3))
    assert torch.equal(predicted(posterior, 1, 2, 4, 5), whole)
    with pytest.raises(ValueError, match="holds the members 1 to 2 of 3"):
        predicted(posterior, 3)
    rows = [f"{part}.{name}" for part in ("rows", "snapshots.kept") for name in posterior.rows]
    assert list(posterior.per_sample()) == rows
    saved = posterior.saved()
    assert saved["snapshots.offered"].item() == 2
    assert saved["snapshots.kept.0/bias"].tensor.shape == (2, 4, 4)
    other = chains()
    other.hold(range(1, 3))
    other.load_state_dict(posterior.state_dict())
    assert torch.equal(predicted(other, 1, 5), predicted(posterior, 1, 5))


def test_sgld_is_sghmc_without_momentum() -> None:
    langevin, hamiltonian = chains(hb.SGLD), chains(friction=1.0)
    assert torch.equal(states_of(langevin, 3)[-1], states_of(hamiltonian, 3)[-1])
    optimizer = langevin.optimizer(lr=0.1)
    step_of(langevin, optimizer)(X, X[:, :2])
    assert not any(optimizer.state.values())


def test_convergence_is_told_of_outputs_and_weights() -> None:
    posterior = chains(burn_in=0, collect_every=1, snapshots=64)
    assert posterior.diagnostics(lambda: X, ALONE) == {"chains": 3, "snapshots": 0}
    states = torch.stack(states_of(posterior, 20)[1:], 1)
    found = posterior.diagnostics(lambda: X, ALONE)
    assert (found["chains"], found["snapshots"]) == (3, 20)
    outputs = posterior.predict(X, samples=3 * 20).unflatten(0, (20, 3)).flip(0).transpose(0, 1)
    for name, draws in (("weights", states), ("outputs", outputs.flatten(2))):
        assert found[name] == pytest.approx(
            {
                "r_hat_max": float(split_r_hat(draws).max()),
                "r_hat_median": float(split_r_hat(draws).nanmedian()),
                "effective_samples_min": float(effective_samples(draws).min()),
                "effective_samples_median": float(effective_samples(draws).nanmedian()),
            },
            rel=1e-9,
        )


def test_another_optimizer_is_refused() -> None:
    posterior = chains(hb.SGLD)
    adam = torch.optim.Adam(posterior.rows.values())
    with pytest.raises(ValueError, match="SGLD samples by an optimizer of its own, and Adam w"):
        step_of(posterior, adam)


def test_a_chain_that_diverges_is_named() -> None:
    posterior = chains()
    step = step_of(posterior)
    step(X, X[:, :2])
    with torch.no_grad():
        posterior.rows["2/bias"][1] = math.inf
    before = flat(posterior)
    with pytest.raises(FloatingPointError, match=r"step 1: loss = .*; diverged: member 1; the"):
        step(X, X[:, :2])
    assert torch.equal(flat(posterior), before)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("temperature", 0.0, r"posterior\.temperature = 0\.0: must be a positive number"),
        ("friction", 1.5, r"posterior\.friction = 1\.5: must be at most 1"),
        ("burn_in", -1, r"posterior\.burn_in = -1: must be at least 0"),
        ("collect_every", 0, r"posterior\.collect_every = 0: must be at least 1"),
        ("snapshots", 1, r"posterior\.snapshots = 1: must be at least 2"),
        ("exploration", 1.0, r"posterior\.exploration = 1\.0: must be in \[0, 1\)"),
    ],
)
def test_options_out_of_range_are_refused(option: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chains(**{option: value})
    with pytest.raises(ValueError, match=r"posterior\.preconditioning: is measured in burn-in"):
        chains(preconditioning=True, burn_in=0)
