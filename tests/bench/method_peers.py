"""Steps of libraries that have a method of ours, each as its documentation shows it.

    pip install --no-deps posteriors==0.1.3 tensordict torchopt optree torch-uncertainty==0.13.0

Each takes the network and the loss of a task; K members or chains, as ``hpc_bnn`` has.
"""

from collections.abc import Callable

import torch
from contenders import adam
from networks import NUM_EXAMPLES, Task
from peer_libraries import MissingPeerError
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["PEERS", "MissingPeerError"]


def posteriors_sghmc(task: Task, samples: int) -> Callable[[], object]:
    """SGHMC of posteriors, one chain after the other: ``torch.vmap`` over chains is slower here."""
    try:
        import posteriors
    except ImportError as error:
        raise MissingPeerError(f"cannot be imported ({error}); pip install posteriors") from error
    torch.manual_seed(0)
    network, loss = task.network(), task.loss()

    def log_posterior(
        parameters: dict[str, Tensor], batch: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        x, y = batch
        outputs = functional_call(network, parameters, (x,))
        prior = posteriors.diag_normal_log_prob(parameters)
        return -loss(outputs, y).mean() + prior / NUM_EXAMPLES, outputs.detach()

    transform = posteriors.sgmcmc.sghmc.build(log_posterior, lr=1e-3, temperature=1 / NUM_EXAMPLES)
    states = [
        transform.init({name: p.detach().clone() for name, p in task.network().named_parameters()})
        for _ in range(samples)
    ]

    def step() -> None:
        for i, state in enumerate(states):
            states[i], _ = transform.update(state, (task.x, task.y), inplace=True)

    return step


def uncertainty_ensemble(task: Task, samples: int) -> Callable[[], object]:
    """Deep ensemble of torch-uncertainty: the sum of the members' losses, one optimizer."""
    try:
        from torch_uncertainty.models import deep_ensembles
    except ImportError as error:
        raise MissingPeerError(
            f"cannot be imported ({error}); pip install torch-uncertainty"
        ) from error
    torch.manual_seed(0)
    members: list[nn.Module] = [task.network() for _ in range(samples)]
    model, loss = deep_ensembles(members, task="classification"), task.loss()
    optimizer = adam(model)
    y = task.y.repeat(samples, *[1] * (task.y.dim() - 1))

    def step() -> None:
        optimizer.zero_grad()
        (loss(model(task.x), y).mean() * samples).backward()
        optimizer.step()

    return step


PEERS: dict[str, Callable[[Task, int], Callable[[], object]]] = {
    "posteriors, SGHMC": posteriors_sghmc,
    "torch-uncertainty, ensemble": uncertainty_ensemble,
}
