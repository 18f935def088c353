"""IVON: natural-gradient steps on a mean-field Gaussian posterior at the cost of Adam.

With the data term l (the mean over examples), the factor c of the complexity term (kl_weight / N),
the temperature T and the prior N(0, tau^2), the objective over c T is

    ess E_q[l] + KL(q || N(0, T tau^2)),    ess = 1 / (c T),    delta = c / tau^2,

and a step over the samples w_s = mu + sigma eps_s is

    g = mean_s dl/dw_s,    f = mean_s eps_s dl/dw_s / sigma

    m <- beta1 m + (1 - beta1) g
    h <- beta2 h + (1 - beta2) f + (1 - beta2)^2 / 2 * (h - f)^2 / (h + delta)
    mu <- mu - lr (m / (1 - beta1^t) + delta mu) / (h + delta)
    sigma = 1 / sqrt(ess (h + delta)).

The backward pass of a draw gives both means: g is the gradient to mu, and that to log_sigma is
f sigma^2. So log_sigma follows from h and holds no state of its own; h converges to the diagonal of
the Hessian of l under q.

Source: Shen, Daheim, Cong, Nickl, Marconi, Bazan, Yokota, Gurevych, Cremers, Khan,
Moellenhoff 2024, arXiv:2402.17641, algorithm 1; options have the names of its ``ivon-opt``.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import torch
from annotated_types import Interval
from torch import Tensor, nn

from hpc_bnn.bayes.mean_field import RandomWeight
from hpc_bnn.bayes.optimizer import ClosedForm
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.bayes.prior import Positive

CACHED = 1 << 15  # elements of a block on CPUs: all that a step reads of them stays in the cache

Fraction = Annotated[float, Interval(ge=0, lt=1)]


class IVON(ClosedForm):
    """Move mean and log_sigma of ``posterior``; ``hb.Step`` tells the factor of the complexity.

    What has no distribution (norm layers, embeddings, a learned variance) takes steps of ``lr``
    along its momentum m / (1 - beta1^t). ``clip_norm`` of a step would scale h, too: use
    ``clip_radius``.

    Parameters
    ----------
    posterior
        A mean-field Gaussian one.
    others
        Modules whose parameters are trained as well: the loss.
    lr
        Learning rate; 0.1 to 1 are usual with ``rescale_lr``, that of SGD.
    hess_init
        First h of all weights, which sets their first sigma; None: the h that belongs to the sigma
        of the posterior as it is, at least 0.
    beta1, beta2
        Decay of m and h in a step. A run of fewer than 1 / (1 - beta2) steps keeps its first h.
    clip_radius
        Largest step of a weight over ``lr``; None: any.
    debias
        Divide m by 1 - beta1^t.
    rescale_lr
        Multiply ``lr`` by the mean of the first h + delta, so that it is one of plain gradients.

    Raises
    ------
    ValueError
        If the posterior is not a mean-field Gaussian; from ``begin``, if there is no complexity
        term; from ``step``, if only one of mean and log_sigma is frozen.
    """

    def __init__(
        self,
        posterior: Posterior,
        *others: nn.Module,
        lr: float,
        hess_init: Positive | None = None,
        beta1: Fraction = 0.9,
        beta2: Fraction = 0.99999,
        clip_radius: Positive | None = None,
        debias: bool = True,
        rescale_lr: bool = True,
    ) -> None:
        field = posterior.mean_field()
        if field is None:
            raise ValueError(
                f"optimizer.name = 'ivon': {type(posterior).__name__} is not a mean-field Gaussian "
                "posterior, and IVON moves mean and sigma of one; use posterior.name = gaussian, "
                "or another optimizer, such as adam"
            )
        self._posterior, self._temperature = posterior, field.temperature
        self._hess_init = hess_init
        modules = (posterior, *others)
        trained = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}
        options = {"beta1": beta1, "beta2": beta2, "clip_radius": clip_radius}
        options |= {"debias": debias, "rescale_lr": rescale_lr}
        # Of all steps so far: their number, the mean of the first h + delta, the last factor.
        progress = {"steps": 0, "curvature": 0.0, "factor": 0.0}
        super().__init__(list(trained.values()), {"lr": lr, **options, **progress})

    @torch.no_grad()
    def begin(self, factor: float, *, final: float) -> None:
        """Set sigma for the next step; at the first one, h as well."""
        if not factor > 0:
            raise ValueError(
                f"posterior.kl_weight = {factor}: IVON finds sigma from data term and KL; give the "
                "KL a positive weight"
            )
        weights, group = self._trained(), self.param_groups[0]
        new = [one for one in weights if "hessian" not in self.state[one.log_sigma]]
        if new:
            self._start(new, final)
        if new or group["factor"] != factor:
            group["factor"] = factor
            for one in weights:
                wide = self.state[one.log_sigma]["hessian"] + factor / one.tau**2
                one.log_sigma.copy_(wide.log_().mul_(-0.5).add_(self._log_unit()))

    def _start(self, new: Sequence[RandomWeight], final: float) -> None:
        total, count = 0.0, 0
        for one in new:
            log_sigma, delta = one.log_sigma, final / one.tau**2
            if self._hess_init is None:
                wide = log_sigma.mul(-2).exp_().mul_(final * self._temperature)
                hessian = wide.sub_(delta).clamp_(min=0)
            else:
                hessian = torch.full_like(log_sigma, self._hess_init)
            state = {"hessian": hessian, "momentum": torch.zeros_like(log_sigma)}
            if one.mu.dtype != log_sigma.dtype:  # half precision would lose its steps
                state["mean"] = one.mu.to(log_sigma.dtype)
            self.state[log_sigma].update(state)
            total += float(hessian.sum(dtype=torch.float64)) + delta * hessian.numel()
            count += hessian.numel()
        group = self.param_groups[0]
        group["curvature"] = group["curvature"] or total / count

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all that is trained by its gradient, that of the data term."""
        group = self.param_groups[0]
        if not group["factor"]:
            raise RuntimeError("IVON.step comes after IVON.begin, which hb.Step calls")
        group["steps"] += 1
        whole = 1 - group["beta1"] ** group["steps"] if group["debias"] else 1.0
        weights = self._trained()
        for block in _blocks(weights, self.state):
            self._move_random(block, whole)
        for one in weights:
            if "mean" in self.state[one.log_sigma]:
                one.mu.copy_(self.state[one.log_sigma]["mean"])
        random = {id(p) for one in weights for p in (one.mu, one.log_sigma)}
        for other in self.param_groups:
            rest = [p for p in other["params"] if p.grad is not None and id(p) not in random]
            if rest:
                self._move_rest(rest, other["lr"] / whole)

    def _move_random(self, block: "_Block", whole: float) -> None:
        group, unit = self.param_groups[0], self._log_unit()
        lr = group["lr"] * (group["curvature"] if group["rescale_lr"] else 1.0)
        old, radius = 1 - group["beta2"], group["clip_radius"]
        deltas = [group["factor"] / tau**2 for tau in block.taus]
        wide = torch._foreach_add(block.hessians, deltas)
        ess = math.exp(-2 * unit)
        gap = torch._foreach_addcmul(block.hessians, block.pulls, wide, value=-ess)  # h - f
        torch._foreach_add_(block.hessians, gap, alpha=-old)
        torch._foreach_mul_(gap, gap)
        torch._foreach_addcdiv_(block.hessians, gap, wide, value=old**2 / 2)
        torch._foreach_lerp_(block.momenta, block.gradients, 1 - group["beta1"])
        wide = torch._foreach_add(block.hessians, deltas)
        way = torch._foreach_mul(block.means, deltas)
        torch._foreach_add_(way, block.momenta, alpha=1 / whole)
        torch._foreach_div_(way, wide)
        if radius is not None:
            torch._foreach_clamp_min_(way, -radius)
            torch._foreach_clamp_max_(way, radius)
        torch._foreach_add_(block.means, way, alpha=-lr)
        torch._foreach_log_(wide)
        torch._foreach_mul_(wide, -0.5)
        torch._foreach_add_(wide, unit)
        torch._foreach_copy_(block.log_sigmas, wide)

    def _move_rest(self, rest: list[Tensor], lr: float) -> None:
        for p in rest:
            self.state[p].setdefault("momentum", torch.zeros_like(p))
        momenta = [self.state[p]["momentum"] for p in rest]
        gradients = [p.grad for p in rest if p.grad is not None]
        torch._foreach_lerp_(momenta, gradients, 1 - self.param_groups[0]["beta1"])
        torch._foreach_add_(rest, momenta, alpha=-lr)

    def _trained(self) -> list[RandomWeight]:
        """Return the random weights that are not frozen."""
        field = self._posterior.mean_field()
        assert field is not None
        for one in field.weights:
            if one.mu.requires_grad != one.log_sigma.requires_grad:
                raise ValueError(
                    f"{one.name}: only one of mean and log_sigma is frozen, and IVON moves both "
                    "together; freeze both, or use another optimizer"
                )
        return [one for one in field.weights if one.mu.requires_grad]

    def _log_unit(self) -> float:
        """Return log(1 / sqrt(ess)), which is log_sigma where h + delta = 1."""
        return math.log(self.param_groups[0]["factor"] * self._temperature) / 2


class _Block:
    """What a step reads and writes of some of the weights, as lists of tensors of equal shapes."""

    def __init__(self) -> None:
        self.size = 0
        self.taus: list[float] = []
        self.means: list[Tensor] = []
        self.gradients: list[Tensor] = []  # of the means
        self.pulls: list[Tensor] = []  # of log_sigma
        self.momenta: list[Tensor] = []
        self.hessians: list[Tensor] = []
        self.log_sigmas: list[Tensor] = []

    def add(self, tau: float, *tensors: Tensor) -> None:
        lists = self.means, self.gradients, self.pulls, self.momenta, self.hessians, self.log_sigmas
        for each, tensor in zip(lists, tensors, strict=True):
            each.append(tensor)
        self.taus.append(tau)
        self.size += tensors[0].numel()


def _blocks(weights: Sequence[RandomWeight], states: Mapping[Tensor, Any]) -> Iterator[_Block]:
    """Yield all weights, on CPUs in parts that fit the cache."""
    block = _Block()
    for one in weights:
        state, wide = states[one.log_sigma], one.log_sigma.dtype
        gradients = [
            torch.zeros_like(one.log_sigma) if p.grad is None else p.grad.to(wide)
            for p in (one.mu, one.log_sigma)
        ]
        mean = state.get("mean", one.mu)
        whole = mean, *gradients, state["momentum"], state["hessian"], one.log_sigma
        cut = CACHED if one.mu.device.type == "cpu" else one.mu.numel() + 1
        parts: list[tuple[Tensor, ...]] = [whole]
        if mean.numel() > cut and all(tensor.is_contiguous() for tensor in whole):
            parts = list(zip(*(tensor.view(-1).split(cut) for tensor in whole), strict=True))
        for part in parts:
            if block.size and cut == CACHED and block.size + part[0].numel() > CACHED:
                yield block
                block = _Block()
            block.add(one.tau, *part)
    if block.size:
        yield block
