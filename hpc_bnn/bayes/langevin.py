"""The optimizer that moves chains: Langevin dynamics with friction and stochastic gradients.

With the gradient g of the objective of a chain, mean_b l_b - log p(w) / N, the potential of its
weights is U(w) = sum_i l_i - log p(w) and grad U = N g. One step of rate h from (w, v):

    v' = (1 - alpha) v - h g + sqrt(2 alpha h T / N) eps,    w' = w + v',    eps ~ N(0, 1).

This is SGHMC: Chen, Fox, Guestrin 2014, arXiv:1402.4102, eq. 15 with eta = h / N, alpha the
friction and beta-hat = 0. With alpha = 1 it is SGLD (Welling, Teh 2011), by Euler's rule:

    w' = w - h g + sqrt(2 h T / N) eps.

So h is what the rate of SGD with momentum 1 - alpha is, on the same objective, whatever N is; N
enters the noise alone. Chains sample p(w) ~ exp(-U(w) / T) as h goes to 0. For exact gradients of
U = L w^2 / 2 the stationary variance at any h is

    T / (L (1 - h L / (2 (2 - alpha) N))).

Noise of minibatches comes on top: its share falls with h. With preconditioning a parameter tensor
of a chain moves at the rate h G, G = 1 / (sqrt(V) + 1e-5) with V a moving mean of g^2 over its
weights and over the steps of burn-in (Wenzel et al. 2020, arXiv:2002.02405, algorithm 3). After
burn-in G stays, so that no term for its change is missing. With cycles of C steps (Zhang, Li,
Zhang, Chen, Wilson 2020, arXiv:1902.03932, eq. 1) the rate of step t is

    h (1 + cos(pi (t mod C) / C)) / 2,    without noise in the first ``exploration`` of a cycle.

Noise is keyed by seed, step, chain and position among the weights of a chain.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from hpc_bnn.bayes.draw import groups, unflatten
from hpc_bnn.bayes.noise import NORMALS, Purpose, Stream, fill
from hpc_bnn.bayes.optimizer import Uncompiled

DECAY, SMALLEST = 0.99, 1e-5  # of the moving mean of squared gradients, and beside its root


@dataclass(frozen=True)
class Dynamics:
    """How chains move.

    Attributes
    ----------
    friction
        alpha, at most 1: SGLD.
    temperature
        T.
    burn_in
        Steps before which a chain is not in its distribution.
    preconditioning
        Whether each parameter of a chain has a rate of its own.
    cycle
        C, steps of a cycle; 0: none.
    exploration
        Share of a cycle without noise.
    """

    friction: float
    temperature: float
    burn_in: int
    preconditioning: bool
    cycle: int
    exploration: float

    def factor(self, step: int) -> float:
        """Return what the rate is multiplied by at ``step``."""
        return (1 + math.cos(math.pi * (step % self.cycle) / self.cycle)) / 2 if self.cycle else 1.0

    def explores(self, step: int) -> bool:
        """Tell whether ``step`` is in a part of a cycle without noise."""
        return self.cycle > 0 and step % self.cycle < self.exploration * self.cycle


class Langevin(Uncompiled):
    """Moves the weights of chains by ``dynamics``.

    Parameters
    ----------
    rows
        The weights (S, *shape) of all chains held here.
    samples
        Gives the global indices of these chains.

    Attributes
    ----------
    num_examples
        N, set by what makes the steps; None: not known yet.
    """

    def __init__(
        self,
        rows: Sequence[nn.Parameter],
        dynamics: Dynamics,
        *,
        lr: float,
        seed: int,
        samples: Callable[[], range],
    ) -> None:
        super().__init__(rows, {"lr": lr, "step": 0})
        self._dynamics, self._seed, self._samples = dynamics, seed, samples
        self.num_examples: int | None = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every chain by one step.

        Raises
        ------
        RuntimeError
            If N is not known.
        """
        if self.num_examples is None:
            raise RuntimeError(
                "the noise of a sampler depends on the number of training examples, which hb.Step "
                "tells it: make hb.Step(posterior, loss, optimizer, ...) and call that"
            )
        for group in self.param_groups:
            rows = [p.detach()[0] for p in group["params"]]
            offsets = list(accumulate((row.numel() for row in rows), initial=0))
            for part in groups(rows, [None] * len(rows)):
                self._move(group["params"][part], group["lr"], group["step"], offsets[part.start])
            group["step"] += 1

    def _move(self, rows: Sequence[nn.Parameter], lr: float, step: int, offset: int) -> None:
        """Move weights whose noise follows on each other from ``offset`` of each stream on."""
        chosen = self._dynamics
        rate = lr * chosen.factor(step)
        variance = 0.0
        if not chosen.explores(step):
            assert self.num_examples is not None
            variance = 2 * chosen.friction * rate * chosen.temperature / self.num_examples
        moving = [row for row in rows if row.grad is not None]
        scales = {row: self._preconditioner(row, step) for row in moving if chosen.preconditioning}
        # One chain after the other: what this takes of them stays in the cache of a CPU.
        for place, sample in enumerate(self._samples()):
            noise: Sequence[Tensor | None] = [None] * len(rows)
            if variance:
                noise = self._noise(
                    rows, Stream(self._seed, Purpose.DYNAMICS, step, sample), offset
                )
            for row, eps in zip(rows, noise, strict=True):
                if row.grad is None:
                    continue
                weights, gradient = row[place], row.grad[place]
                if chosen.preconditioning:
                    scale = scales[row][place]
                    gradient = gradient * scale
                    eps = None if eps is None else eps * scale.sqrt()
                way = weights
                if chosen.friction < 1:
                    state = self.state[row]
                    if "momentum" not in state:
                        state["momentum"] = torch.zeros_like(row)
                    way = state["momentum"][place].mul_(1 - chosen.friction)
                way.add_(gradient, alpha=-rate)
                if eps is not None:
                    way.add_(eps, alpha=math.sqrt(variance))
                if chosen.friction < 1:
                    weights.add_(way)

    def _noise(self, rows: Sequence[nn.Parameter], stream: Stream, offset: int) -> list[Tensor]:
        """Return the noise of one chain, of the shape of its part of each of ``rows``."""
        shapes = [row.shape[1:] for row in rows]
        count = sum(shape.numel() for shape in shapes)
        noise = torch.empty(count, dtype=torch.float32, device=rows[0].device)
        fill(NORMALS, noise, stream, offset)
        return unflatten(noise, shapes)

    def _preconditioner(self, row: nn.Parameter, step: int) -> Tensor:
        """Return G (S, 1, ...), having taken up the gradient of a burn-in step."""
        assert row.grad is not None
        state, taken = self.state[row], min(step + 1, self._dynamics.burn_in)
        each = row.grad.square().flatten(1).mean(1) if row.dim() > 1 else row.grad.square()
        each = each.view(-1, *[1] * (row.dim() - 1))
        if "squares" not in state:
            state["squares"] = torch.zeros_like(each)
        squares: Tensor = state["squares"]
        if step < taken:
            squares.mul_(DECAY).add_(each, alpha=1 - DECAY)
        return 1 / ((squares / (1 - DECAY**taken)).sqrt() + SMALLEST)
