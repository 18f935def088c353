"""The smallest posterior with per-sample parameters: K networks, each trained alone beside the
others. It stands for every method that has members.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from hpc_bnn.bayes.noise import Key
from hpc_bnn.bayes.posterior import Posterior, Weights


class Members(Posterior):
    """K sets of weights under the prior N(0, 1); the network gives shape and names only."""

    def __init__(self, module: nn.Module, *, samples: int, seed: int = 0) -> None:
        names = [name for name, _ in module.named_parameters()]
        super().__init__(module, names, seed=seed, members=samples)
        module.requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        self.rows = nn.ParameterDict()
        for name, p in module.named_parameters():
            start = 0.3 * torch.randn((samples, *p.shape), generator=generator, dtype=torch.float64)
            self.rows[name.replace(".", "/")] = nn.Parameter(start.to(p.dtype))

    def sample(self, key: Key) -> Weights:
        places = self.places(key.samples)
        return {name: self.rows[name.replace(".", "/")][places] for name in self.names}

    def complexity(self) -> Tensor:
        squares = [rows.double().square().sum() for rows in self.rows.values()]
        return torch.stack(squares).sum() / 2 / len(self.own_samples)

    def per_sample(self) -> Iterable[str]:
        return [f"rows.{name}" for name in self.rows]
