"""Each member takes the steps that it would take alone: loss, prior, rate and clipping are those of
a run of one. Tolerance: 1e-10 in float64, relative to the largest weight.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from toy_step import INPUTS, NUM_EXAMPLES, OUTPUTS, alone, batch

from hpc_bnn.bayes.members import Members
from hpc_bnn.losses import gaussian_nll
from hpc_bnn.models.mlp import MLP
from hpc_bnn.train.step.step import Step

K = 12
OPTIONS: dict[str, dict[str, Any]] = {
    "adam": {},
    "several a pass": {"samples_per_pass": 5},
    "clipping": {"clip_norm": 0.5},
    "warm-up": {"kl_warmup_steps": 5},
}


def members() -> Members:
    torch.manual_seed(0)
    made = Members(MLP((INPUTS,), (OUTPUTS,), hidden=(6,)).double(), samples=K, seed=5)
    made.initialise()
    return made


def only(member: int) -> Members:
    one = members()
    one.members, one.own_samples = 1, range(1)
    for rows in one.rows.values():
        rows.data = rows.data[member : member + 1]
    return one


def flat(posterior: Members) -> Tensor:
    return torch.cat([rows.detach().flatten(1) for rows in posterior.rows.values()], 1)


def trained(posterior: Members, option: str) -> Tensor:
    optimizer = torch.optim.Adam(posterior.rows.parameters(), lr=1e-2)
    chosen: dict[str, Any] = {"num_examples": NUM_EXAMPLES, "precision": "float64"}
    chosen |= {"samples": posterior.members, **OPTIONS[option]}
    step = Step(posterior, gaussian_nll(sigma=0.7), optimizer, alone(), **chosen)
    for i in range(3):
        step(*(tensor.double() for tensor in batch(step=i)))
    return flat(posterior)


def apart(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max() / second.abs().max())


@pytest.mark.parametrize("option", OPTIONS)
def test_each_member_is_the_one_that_is_trained_alone(option: str) -> None:
    together, start = trained(members(), option), flat(members())
    if option in ("clipping", "warm-up"):
        assert apart(together, trained(members(), "adam")) > 1e-4
    for member in range(0, K, 5):
        by_itself = trained(only(member), "adam" if option == "several a pass" else option)[0]
        assert apart(by_itself, together[member]) <= 1e-10
        assert apart(by_itself, start[member]) > 1e-3
