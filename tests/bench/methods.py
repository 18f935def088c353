"""What each method costs a step, and what it buys on the digits.

    python tests/bench/methods.py                     cost of a step on two networks
    python tests/bench/methods.py --rounds 20 mlp
    python tests/bench/methods.py --study             what each buys: five seeds, an hour
    python tests/bench/methods.py --study --tune      tries the settings of each method

A step's bound is the deterministic network on the same passes: methods whose weights are shared
make K passes through one network and one update of Adam; methods with members make K passes
through K networks and update each. ``ratio`` is the median over rounds of the CPU time over that of
the bound in the same round. Peers are left out, with a word about it, where they are not installed:
pip install --no-deps posteriors==0.1.3 torch-uncertainty==0.13.0 bayesian-torch==0.5.0.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import method_study
import torch
from contenders import ALONE, adam
from interleave import Timing, interleave, spread
from method_peers import PEERS, MissingPeerError
from networks import NUM_EXAMPLES, TASKS, Task
from report import Row, Target, publish
from torch import nn

import hpc_bnn as hb
from hpc_bnn.bayes.posterior import Posterior

SHARED, MEMBERS = "deterministic, one network", "deterministic, a network a sample"
STEPS = 5000  # of an imagined training, of which SWAG collects in every 62nd of the second half
SAMPLES = {"mlp": 8, "transformer-2": 4, "transformer-6": 4}


@dataclass(frozen=True)
class Method:
    """A method as a user builds it.

    Attributes
    ----------
    build
        Makes the posterior of a network, for K samples.
    bound
        The deterministic contender that makes the same passes.
    most
        What the ratio to ``against`` should not exceed.
    against
        What ``most`` refers to; None: the bound.
    dropout
        Probability of dropping an activation; the bound drops none.
    """

    build: Callable[[nn.Module, int], Posterior]
    bound: str
    most: float | None = None
    against: str | None = None
    dropout: float = 0.0
    optimizer: Callable[[Posterior], torch.optim.Optimizer] = adam


METHODS: dict[str, Method] = {
    "gaussian": Method(lambda net, k: hb.Gaussian(net, keep_noise=True), SHARED),
    "gaussian, IVON": Method(
        lambda net, k: hb.Gaussian(net, keep_noise=True),
        SHARED,
        most=1.02,
        against="gaussian",
        optimizer=lambda posterior: hb.IVON(posterior, lr=0.1),
    ),
    "low_rank, r = 8": Method(
        lambda net, k: hb.LowRank(net, rank=8, keep_noise=True),
        SHARED,
        most=1.4,
        against="gaussian",
    ),
    "rank1": Method(lambda net, k: hb.Rank1(net), SHARED),
    "dropout": Method(lambda net, k: hb.Dropout(net), SHARED, most=1.15, dropout=0.1),
    "ensemble": Method(lambda net, k: hb.Ensemble(net, samples=k), MEMBERS, most=1.03),
    "swag": Method(lambda net, k: hb.SWAG(net, samples=k, steps=STEPS), MEMBERS, most=1.03),
    "swag, collecting": Method(lambda net, k: hb.SWAG(net, samples=k), MEMBERS),
    "sgld": Method(lambda net, k: hb.SGLD(net, samples=k), MEMBERS, most=1.10),
    "sghmc": Method(lambda net, k: hb.SGHMC(net, samples=k), MEMBERS, most=1.10),
}


def bounds(task: Task, samples: int) -> dict[str, Callable[[], object]]:
    """Return the deterministic contenders: K passes through one network, or one through each."""
    return {SHARED: _deterministic(task, samples, 1), MEMBERS: _deterministic(task, 1, samples)}


def _deterministic(task: Task, passes: int, networks: int) -> Callable[[], object]:
    torch.manual_seed(0)
    nets, loss = [task.network() for _ in range(networks)], task.loss()
    optimizers = [adam(net) for net in nets]

    def step() -> None:
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            for _ in range(passes):
                (loss(net(task.x), task.y).mean() / passes).backward()
            optimizer.step()

    return step


def stepped(method: Method, task: Task, samples: int) -> Callable[[], object]:
    """Return a step of a method, ready to be called."""
    torch.manual_seed(0)
    network = task.network()
    if method.dropout:
        drop_after_activations(network, method.dropout)
    posterior = method.build(network, samples)
    optimizer = posterior.optimizer(1e-3) or method.optimizer(posterior)
    step = hb.Step(
        posterior,
        task.loss(),
        optimizer,
        ALONE,
        samples=samples,
        num_examples=NUM_EXAMPLES,
        guard_every=0,
    )
    return lambda: step(task.x, task.y)


def drop_after_activations(network: nn.Module, p: float) -> None:
    """Put a dropout layer behind each activation."""
    for layer in list(network.modules()):
        for name, child in list(layer.named_children()):
            if isinstance(child, nn.ReLU | nn.GELU):
                setattr(layer, name, nn.Sequential(child, nn.Dropout(p)))


def ratio(timings: dict[str, list[Timing]], one: str, other: str) -> list[float]:
    """Return the ratios of CPU time of two contenders, round by round."""
    pairs = zip(timings[one], timings[other], strict=True)
    return [mine.cpu_s / theirs.cpu_s for mine, theirs in pairs]


def measure(name: str, *, rounds: int) -> None:
    """Time all methods on one network and publish them as ``methods-NAME``."""
    task, samples = TASKS[name](), SAMPLES[name]
    contenders = bounds(task, samples)
    contenders |= {label: stepped(method, task, samples) for label, method in METHODS.items()}
    peers: list[str] = []
    for label, build in PEERS.items():
        try:
            contenders[label] = build(task, samples)
            peers.append(label)
        except MissingPeerError as error:
            print(f"left out: {label}: {error}")
    timings = interleave(contenders, rounds=rounds)
    rows: list[Row] = []
    for label, runs in timings.items():
        bound = METHODS[label].bound if label in METHODS else label
        bound = MEMBERS if label in peers else bound
        ratios = spread(ratio(timings, label, bound))
        rows.append(
            {
                "method": label,
                "samples": samples,
                "cpu_ms": 1e3 * statistics.median(run.cpu_s for run in runs),
                "ratio": ratios.median,
                "ratio_q1": ratios.lower,
                "ratio_q3": ratios.upper,
                "bound": "" if label == bound else bound,
            }
        )
    publish(f"methods-{name}", rows, targets(timings))


def targets(timings: dict[str, list[Timing]]) -> list[Target]:
    """Return what the methods should reach."""
    found = []
    for label, method in METHODS.items():
        if method.most is not None:
            other = method.against or method.bound
            value = statistics.median(ratio(timings, label, other))
            found.append(Target(f"{label} / {other}", value, most=method.most))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", help=f"of {', '.join(SAMPLES)}; none: first two")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--study", action="store_true", help="train on the digits instead")
    parser.add_argument("--tune", action="store_true", help="try the settings of each method")
    parser.add_argument("--collect", action="store_true", help="show the last study again")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=method_study.STEPS)
    parser.add_argument("--only", nargs="*", default=[], help="methods of the study")
    chosen = parser.parse_args(arguments)
    if chosen.study:
        method_study.study(
            seeds=chosen.seeds,
            steps=chosen.steps,
            tune=chosen.tune,
            only=chosen.only,
            collect=chosen.collect,
        )
        return
    torch.set_num_threads(1)
    for name in chosen.networks or list(SAMPLES)[:2]:
        if name not in SAMPLES:
            parser.error(f"{name}: expected one of {', '.join(SAMPLES)}")
        measure(name, rounds=chosen.rounds)


if __name__ == "__main__":
    main()
