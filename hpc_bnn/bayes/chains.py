"""Chains: each weight sample is a Markov chain over the weights of the network.

A chain moves at every step of training by the dynamics of ``langevin``, which is the optimizer:

    posterior = hb.SGHMC(network, samples=8, burn_in=2000, collect_every=100)
    optimizer = posterior.optimizer(lr=1e-3)

After burn-in every so many steps the state of each chain is kept as a snapshot, and prediction uses
the snapshots: sample i is chain i % K, snapshot i // K, from the newest back. Where there is none
yet, the K samples are the present states. In a settings file set ``train.schedule: constant``: the
default lets the rate of the last steps fall to 0, where chains stand still. Clipped gradients
(``train.clip_norm``) are those of another distribution.

Letters: K chains, S of them on this rank, B batch, Q quantities.
"""

from collections.abc import Callable, Iterable
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor, nn

from hpc_bnn.bayes.convergence import LEAST_DRAWS, effective_samples, split_r_hat
from hpc_bnn.bayes.inputs import Inputs
from hpc_bnn.bayes.langevin import Dynamics, Langevin
from hpc_bnn.bayes.members import Members
from hpc_bnn.bayes.noise import Key, Purpose
from hpc_bnn.bayes.posterior import Weights, row_key
from hpc_bnn.bayes.prior import Positive, PriorSigma, require_positive
from hpc_bnn.bayes.snapshots import Snapshots
from hpc_bnn.group import Group

Friction = Annotated[float, Interval(gt=0, le=1)]
Share = Annotated[float, Interval(ge=0, lt=1)]
QUANTITIES = 256  # most outputs, and most weights, that convergence is judged by


class SGHMC(Members):
    """K chains of stochastic-gradient Hamiltonian Monte Carlo.

    Parameters
    ----------
    module
        Any module without BatchNorm. It is not copied, and its parameters are frozen.
    samples
        K, one chain each.
    prior_sigma
        Standard deviation of the prior, or ``"fan_in"``: ``1 / sqrt(fan_in)`` of each layer.
    temperature
        1 for the Bayesian posterior, below 1 for a cold one.
    friction
        Share of its momentum that a chain loses in a step, 1 - momentum of SGD.
    burn_in
        Steps before the first snapshot.
    collect_every
        Steps between snapshots.
    snapshots
        Most snapshots of a chain, in host memory as many networks; where one more would not fit,
        every second one is dropped and twice as many steps lie between them from then on.
    cycle
        Steps in which the rate falls from its peak to 0, again and again; 0: no cycles.
    exploration
        Share of a cycle at its start that has no noise and no snapshots.
    preconditioning
        Give each weight a rate of its own, by its gradients in burn-in.
    initial_spread
        None: each chain starts from weights of its own; a number: all start from the given ones,
        moved by so many times the root mean square of each tensor.
    seed
        Key of the initial weights and of the noise; the same on every rank.

    Raises
    ------
    ValueError
        As ``Members``, or if an option is out of range.
    """

    predicts_collected = True

    def __init__(
        self,
        module: nn.Module,
        *,
        samples: int,
        prior_sigma: PriorSigma = 1.0,
        temperature: Positive = 1.0,
        friction: Friction = 0.1,
        burn_in: int = 1000,
        collect_every: int = 50,
        snapshots: int = 16,
        cycle: int = 0,
        exploration: Share = 0.8,
        preconditioning: bool = False,
        initial_spread: Positive | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            module,
            samples=samples,
            prior_sigma=prior_sigma,
            initial_spread=initial_spread,
            seed=seed,
        )
        require_positive(temperature=temperature, friction=friction)
        least = {"burn_in": 0, "collect_every": 1, "snapshots": 2, "cycle": 0}
        for name, value in zip(least, (burn_in, collect_every, snapshots, cycle), strict=True):
            if value < least[name]:
                raise ValueError(f"posterior.{name} = {value}: must be at least {least[name]}")
        if friction > 1:
            raise ValueError(f"posterior.friction = {friction}: must be at most 1")
        if not 0 <= exploration < 1:
            raise ValueError(f"posterior.exploration = {exploration}: must be in [0, 1)")
        if preconditioning and burn_in == 0:
            raise ValueError("posterior.preconditioning: is measured in burn-in; set burn_in")
        self.temperature, self.friction, self.preconditioning = (
            temperature,
            friction,
            preconditioning,
        )
        self.burn_in, self.collect_every = burn_in, collect_every
        self.cycle, self.exploration = cycle, exploration
        self.snapshots = Snapshots(dict(self.rows.items()), most=snapshots)

    def dynamics(self) -> Dynamics:
        """Return how the chains move."""
        return Dynamics(
            friction=self.friction,
            temperature=self.temperature,
            burn_in=self.burn_in,
            preconditioning=self.preconditioning,
            cycle=self.cycle,
            exploration=self.exploration,
        )

    def initialise(self) -> None:
        """Make the initial rows of the chains that this process holds, and room for snapshots."""
        super().initialise()
        self.snapshots.allocate()

    def optimizer(self, lr: float) -> Langevin:
        """Return what moves the chains, at the rate ``lr`` of SGD on the mean loss of an
        example.
        """
        return Langevin(
            list(self.rows.values()),
            self.dynamics(),
            lr=lr,
            seed=self.seed,
            samples=lambda: self.own_samples,
        )

    def begin(self, optimizer: torch.optim.Optimizer, *, num_examples: int) -> None:
        """Tell the optimizer the number of examples, which the noise depends on.

        Raises
        ------
        ValueError
            If it is not the one that samples.
        """
        if not isinstance(optimizer, Langevin):
            raise ValueError(
                f"{type(self).__name__} samples by an optimizer of its own, and "
                f"{type(optimizer).__name__} would find one maximum a chain instead: use "
                "posterior.optimizer(lr=...)"
            )
        optimizer.num_examples = num_examples

    def collect(self, step: int) -> None:
        """Keep the states of the chains where a snapshot is due after ``step``."""
        done = step + 1
        due = done > self.burn_in and (done - self.burn_in) % self.collect_every == 0
        if due and not self.dynamics().explores(step):
            self.snapshots.take({name: rows.detach() for name, rows in self.rows.items()})

    def per_sample(self) -> Iterable[str]:
        """Return the names of rows and snapshots."""
        return [*super().per_sample(), *(f"snapshots.{k}" for k in self.snapshots.per_sample())]

    def prediction_samples(self, wish: int) -> int:
        """Return how many weight samples there are to predict with, at most ``wish``."""
        return min(wish, self._most())

    def _most(self) -> int:
        return (self.members or 0) * max(1, self.snapshots.count)

    def sample(self, key: Key) -> Weights:
        """Return weights by name, each (S, *shape): the present states of the chains
        ``key.samples``, or for a prediction the snapshots that these samples are.

        Raises
        ------
        ValueError
            If there are none of such samples, or they are not held here.
        """
        if key.purpose is not Purpose.PREDICTION or self.snapshots.count == 0:
            return super().sample(key)
        chains = self.members or 1
        if max(key.samples) >= self._most():
            raise ValueError(
                f"weight sample {max(key.samples)}: {chains} chains have {self.snapshots.count} "
                f"snapshots each, {self._most()} samples to predict with"
            )
        places = self.places([sample % chains for sample in key.samples])
        states = self.snapshots.states(places, [sample // chains for sample in key.samples])
        return {name: self._here(states[row_key(name)], name) for name in self.names}

    def _here(self, state: Tensor, name: str) -> Tensor:
        return state.to(self.rows[row_key(name)].device)

    @torch.no_grad()
    def diagnostics(self, inputs: Callable[[], Inputs], axis: Group) -> dict[str, object]:
        """Collective over the sample axis: return split R-hat and effective sample size
        (``convergence``) over the snapshots of all chains, of the outputs for ``inputs`` and of the
        weights, of each at most 256 that lie evenly; counts alone where snapshots are too few.
        """
        count = self.snapshots.count
        figures: dict[str, object] = {"chains": self.members, "snapshots": count}
        if count < LEAST_DRAWS:
            return figures
        x = inputs()
        draws = [rows.flatten(2).double() for rows in self.snapshots.draws().values()]
        quantities = {
            "outputs": torch.stack([self._outputs(x, count - 1 - i) for i in range(count)], 1),
            "weights": _spaced(torch.cat(draws, 2)),
        }
        for name, own in quantities.items():
            everyone = axis.all_gather(own.contiguous(), name=f"convergence of {name}")
            figures[name] = _figures(everyone)
        return figures

    def _outputs(self, x: Inputs, age: int) -> Tensor:
        """Return outputs (S, Q) of one snapshot of each chain held here."""
        chains, each = self.members or 1, []
        for chain in self.own_samples:
            (one,) = self.predict(x, samples=1, first=age * chains + chain, check=False)
            each.append(_spaced(one.flatten()).double().cpu())
        return torch.stack(each)


class SGLD(SGHMC):
    """K chains of stochastic-gradient Langevin dynamics: ``SGHMC`` whose momentum is lost in every
    step, with its options.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        samples: int,
        prior_sigma: PriorSigma = 1.0,
        temperature: Positive = 1.0,
        burn_in: int = 1000,
        collect_every: int = 50,
        snapshots: int = 16,
        cycle: int = 0,
        exploration: Share = 0.8,
        preconditioning: bool = False,
        initial_spread: Positive | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            module,
            samples=samples,
            prior_sigma=prior_sigma,
            temperature=temperature,
            friction=1.0,
            burn_in=burn_in,
            collect_every=collect_every,
            snapshots=snapshots,
            cycle=cycle,
            exploration=exploration,
            preconditioning=preconditioning,
            initial_spread=initial_spread,
            seed=seed,
        )


def _spaced(values: Tensor) -> Tensor:
    """Return at most ``QUANTITIES`` of the last dimension, evenly spaced."""
    return values[..., :: -(-values.shape[-1] // QUANTITIES)]


def _figures(draws: Tensor) -> dict[str, float]:
    """Return the figures of draws (K, n, Q)."""
    r_hat, effective = split_r_hat(draws), effective_samples(draws)
    return {
        "r_hat_max": float(r_hat.max()),
        "r_hat_median": float(r_hat.nanmedian()),
        "effective_samples_min": float(effective.min()),
        "effective_samples_median": float(effective.nanmedian()),
    }
