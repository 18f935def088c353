"""A small problem on one process: what the tests of the training step share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hpc_bnn import losses
from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.losses.base import Loss
from hpc_bnn.models.mlp import MLP
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.step.step import Step

INPUTS, OUTPUTS, BATCH, NUM_EXAMPLES = 3, 2, 6, 50

LOSSES: dict[str, Callable[[], Loss]] = {
    "categorical": losses.categorical_nll,
    "categorical predictive": lambda: losses.categorical_nll(predictive=True),
    "gaussian": lambda: losses.gaussian_nll(sigma=0.7),
    "gaussian learned": lambda: losses.gaussian_nll(variance="learned"),
    "gaussian predicted": lambda: losses.gaussian_nll(variance="predicted"),
    "gaussian predictive": lambda: losses.gaussian_nll(variance="learned", predictive=True),
    "gaussian predicted predictive": lambda: losses.gaussian_nll(
        variance="predicted", predictive=True
    ),
    "gaussian crps": losses.gaussian_crps,
    "gaussian crps predictive": lambda: losses.gaussian_crps(predictive=True),
    "student t": losses.student_t_nll,
    "student t predictive": lambda: losses.student_t_nll(predictive=True),
    "moments": lambda: losses.gaussian_moments(sigma=0.7),
    "moments learned": lambda: losses.gaussian_moments(learned=True),
    "crps": lambda: losses.crps(layout="gather"),
    "crps transposed": lambda: losses.crps(layout="transposed"),
    "fair crps": losses.fair_crps,
    "almost fair crps": losses.almost_fair_crps,
    "energy score": losses.energy_score,
    "mae": losses.mae,
    "mse": losses.mse,
}


def alone() -> World:
    return World(Grid(1, 1, 0), torch.device("cpu"))


def batch(loss: str = "gaussian", step: int = 0, *, examples: int = BATCH) -> tuple[Tensor, Tensor]:
    """Return the batch (x, y) of a step: a linear relation with a little noise."""
    generator = torch.Generator().manual_seed(100 + step)
    x = torch.randn(examples, INPUTS, generator=generator)
    if loss.startswith("categorical"):
        return x, (x[:, 0] > 0).long()
    slope = torch.tensor([[1.0, -0.5, 0.25], [0.0, 2.0, -1.0]])
    return x, x @ slope.T + 0.1 * torch.randn(examples, OUTPUTS, generator=generator)


def posterior_of(
    loss: Loss, *, dtype: torch.dtype = torch.float64, dropout: float = 0.0, **options: Any
) -> Gaussian:
    torch.manual_seed(11)
    network = MLP(
        (INPUTS,), loss.output_shape((OUTPUTS,)), hidden=[5], activation="tanh", dropout=dropout
    )
    return Gaussian(network.to(dtype), **{"initial_sigma": 0.1, "seed": 4, **options})


class Toy:
    """A posterior, a loss, an optimizer and the step over them."""

    def __init__(
        self,
        loss: str | Loss = "gaussian",
        *,
        samples: int = 4,
        lr: float = 0.05,
        precision: str = "float64",
        dropout: float = 0.0,
        posterior: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        dtype = torch.float64 if precision == "float64" else torch.float32
        self.name = loss if isinstance(loss, str) else "gaussian"
        self.loss: Loss = (LOSSES[loss]() if isinstance(loss, str) else loss).to(dtype)
        self.posterior = posterior_of(self.loss, dtype=dtype, dropout=dropout, **(posterior or {}))
        self.parameters = [*self.posterior.parameters(), *self.loss.parameters()]
        self.optimizer = torch.optim.SGD(self.parameters, lr=lr)
        self.step = Step(
            self.posterior,
            self.loss,
            self.optimizer,
            alone(),
            samples=samples,
            num_examples=NUM_EXAMPLES,
            precision=precision,  # type: ignore[arg-type]
            **options,
        )

    def run(self, steps: int) -> list[float]:
        """Train and return the losses."""
        return [float(self.step(*batch(self.name, k))) for k in range(steps)]

    def gradients(self) -> list[Tensor]:
        """Return the gradients of one step."""
        self.run(1)
        return [p.grad for p in self.parameters if p.grad is not None]

    def snapshot(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.parameters]
