"""Nanoseconds per standard normal of the keyed-noise kernel, beside torch's own generators.

    python tests/bench/noise.py                       under one minute

Every instruction level that this CPU has, each task of the kernel (normals alone, the fused weight
draw, its pull-back), one thread and two. Times are CPU time for one thread, wall time for more.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from interleave import interleave, spread
from report import Row, Target, publish
from torch import Tensor

from hpc_bnn.bayes import noise, noise_cpu
from hpc_bnn.bayes.noise import Purpose, Stream

LEVELS = ("baseline", "AVX2", "AVX-512")
STREAM = Stream(seed=1, purpose=Purpose.WEIGHTS, step=2, sample=3)


def build(count: int, threads: int) -> dict[str, Callable[[], object]]:
    """Return the contenders, each filling ``count`` elements once a call."""
    out, keep = torch.empty(count), torch.empty(count)
    mu, log_sigma, grad = torch.randn(count), torch.full((count,), -4.0), torch.randn(count)
    built: dict[str, Callable[[], object]] = {
        "torch normal_": partial(out.normal_),
        "torch randn": partial(torch.randn, count),
        "torch mu + exp(log_sigma) * randn": partial(torch_draw, mu, log_sigma),
    }
    for level in range(noise_cpu.LEVEL + 1):
        fill = partial(
            noise_cpu.fill, out=out, stream=STREAM, offset=0, level=level, threads=threads
        )
        built[f"normals, {LEVELS[level]}"] = partial(fill, noise.NORMALS)
        built[f"draw, {LEVELS[level]}"] = partial(fill, noise.DRAW, mu=mu, log_sigma=log_sigma)
        built[f"draw and keep, {LEVELS[level]}"] = partial(
            fill, noise.DRAW, mu=mu, log_sigma=log_sigma, keep=keep
        )
        built[f"pull, {LEVELS[level]}"] = partial(fill, noise.PULL, grad=grad, log_sigma=log_sigma)
    return built


def torch_draw(mu: Tensor, log_sigma: Tensor) -> Tensor:
    """What a weight draw costs in plain torch."""
    return torch.exp(log_sigma).mul_(torch.randn(mu.shape)).add_(mu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=2**20, help="elements: a 1024 x 1024 layer")
    parser.add_argument("--threads", type=int, default=2, help="compared with one")
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    nanoseconds: dict[int, dict[str, float]] = {}
    rows: list[Row] = []
    for threads in (1, arguments.threads):
        torch.set_num_threads(threads)
        timings = interleave(build(arguments.count, threads), rounds=arguments.rounds)
        for name, runs in timings.items():
            cpu = spread([1e9 * run.cpu_s / arguments.count for run in runs])
            wall = spread([1e9 * run.wall_s / arguments.count for run in runs])
            nanoseconds.setdefault(threads, {})[name] = (cpu if threads == 1 else wall).median
            rows.append(
                {
                    "contender": name,
                    "threads": threads,
                    "cpu_ns": cpu.median,
                    "cpu_ns_q1": cpu.lower,
                    "cpu_ns_q3": cpu.upper,
                    "wall_ns": wall.median,
                    "wall_ns_min": min(1e9 * run.wall_s / arguments.count for run in runs),
                }
            )
    best = f"normals, {LEVELS[noise_cpu.LEVEL]}"
    one, more = nanoseconds[1][best], nanoseconds[arguments.threads][best]
    publish(
        "noise",
        rows,
        [
            Target(f"{best}, ns on one thread", one, most=3.0),
            Target(f"{best}, speed-up with {arguments.threads} threads", one / more, least=1.6),
        ],
    )


if __name__ == "__main__":
    main()
