"""Step time and memory of hb.Step beside other ways to train the same Bayesian network.

    pip install --no-deps torch-blue==1.1.0 bayesian-torch==0.5.0
    python tests/bench/peers.py                       three networks, a quarter of an hour
    python tests/bench/peers.py mlp --rounds 20
    python tests/bench/peers.py --no-memory           times only

``vit``: the tiny network of ``vit_cifar10.yaml`` on 32 images of 32 x 32, 4 weight samples.
``swin``: a SWIN transformer on 4 states of the toy atmosphere, 4 samples. ``mlp``: a
series forecaster 512-1024-1024-96 on 64 windows, 16 samples. All contenders of a network start from
the same means, use the same Adam and rows, and take their turns in random order in one process;
peak memory is taken in a process of its own for each (``memory``). ``ratio`` is CPU time over that
of the deterministic network on samples x batch rows, at once or in as many passes as samples,
whichever is faster: the bound.

``gradients``, ``objective`` and ``weight_samples`` say what a contender computes; they are measured
on a tiny network (``peer_checks``), not asserted. A contender that cannot run is listed with its
error.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import memory
import peer_checks
import torch
from contenders import adam
from interleave import interleave, spread
from networks import Task, mlp
from peer_libraries import BayesianTorch, TorchBlue
from peer_models import Deterministic, HpcBnn, OptimizerOf, Peer, PlainTorch
from report import FOLDER, Row, Target, publish
from torch import distributed

from hpc_bnn import losses
from hpc_bnn.models.swin import Swin
from hpc_bnn.models.vit import ViT

ONCE, PASSES = "deterministic, all rows at once", "deterministic, one pass a sample"
OURS, KEEP = "hb.Step", "hb.Step keep_noise"


def vit() -> Task:
    """Return the tiny ViT, 2.7 million weights, 64 tokens, on 32 images of 3 x 32 x 32."""
    generator = torch.Generator().manual_seed(0)
    return Task(
        network=lambda: ViT((3, 32, 32), (10,)),
        loss=losses.categorical_nll,
        x=torch.randn(32, 3, 32, 32, generator=generator),
        y=torch.randint(10, (32,), generator=generator),
    )


def swin() -> Task:
    """Return a SWIN transformer of 0.6 million weights for 4 states of 32 x 64.

    Its loss is the Gaussian NLL here, not the CRPS, which peers do not have.
    """
    generator = torch.Generator().manual_seed(0)
    return Task(
        network=lambda: Swin((5, 32, 64), (4, 32, 64), width=48, depths=(2, 2, 2, 2)),
        loss=losses.gaussian_nll,
        x=torch.randn(4, 5, 32, 64, generator=generator),
        y=torch.randn(4, 4, 32, 64, generator=generator),
    )


@dataclass(frozen=True)
class Workload:
    """A task and how many weight samples a step draws."""

    task: Callable[[], Task]
    samples: int


WORKLOADS = {"vit": Workload(vit, 4), "swin": Workload(swin, 4), "mlp": Workload(mlp, 16)}

BOUNDS: dict[str, Callable[[Task, int], Deterministic]] = {
    ONCE: lambda task, samples: Deterministic(task, samples=samples, passes=1),
    PASSES: lambda task, samples: Deterministic(task, samples=samples, passes=samples),
}
BAYESIAN: dict[str, Callable[[Task, int, OptimizerOf], Peer]] = {
    OURS: lambda t, k, o: HpcBnn(t, samples=k, optimizer=o),
    KEEP: lambda t, k, o: HpcBnn(t, samples=k, keep_noise=True, optimizer=o),
    "plain torch, DDP(gloo)": lambda t, k, o: PlainTorch(t, samples=k, optimizer=o),
    "torch-blue MC KL": lambda t, k, o: TorchBlue(t, samples=k, optimizer=o),
    "torch-blue closed-form KL": lambda t, k, o: TorchBlue(
        t, samples=k, analytical=True, optimizer=o
    ),
    "bayesian-torch reparam.": lambda t, k, o: BayesianTorch(
        t, samples=k, layers="Reparameterization", optimizer=o
    ),
    "bayesian-torch reparam., backward each": lambda t, k, o: BayesianTorch(
        t, samples=k, layers="Reparameterization", each=True, optimizer=o
    ),
    "bayesian-torch flipout": lambda t, k, o: BayesianTorch(
        t, samples=k, layers="Flipout", optimizer=o
    ),
}


@contextmanager
def process_group() -> Iterator[None]:
    """Hold a gloo process group of this process alone."""
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def build(contender: str, workload: Workload) -> Callable[[], object]:
    """Return the step of one contender."""
    if contender in BOUNDS:
        return BOUNDS[contender](workload.task(), workload.samples).step
    return BAYESIAN[contender](workload.task(), workload.samples, adam).step


def runnable(workload: Workload) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    """Return the contenders that train one step, and the errors of those that do not."""
    steps: dict[str, Callable[[], object]] = {}
    errors: dict[str, str] = {}
    for contender in [*BOUNDS, *BAYESIAN]:
        try:
            step = build(contender, workload)
            step()
        except Exception as error:  # whatever a peer raises is its result
            errors[contender] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        else:
            steps[contender] = step
    return steps, errors


def child(contender: str, network: str, measure: str) -> None:
    """Print the peak memory of one contender in bytes."""
    torch.set_num_threads(1)
    memory.load_libraries()
    with process_group():
        step = build(contender, WORKLOADS[network])
        peak = memory.resident_peak if measure == "resident" else memory.allocated_peak
        print(peak(step))


def peak_mib(contender: str, network: str, measure: str) -> float:
    """Return the peak memory of one contender, taken in a fresh process."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", contender, network]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, measure], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return int(done.stdout.split()[-1]) / memory.MIB


def measure(network: str, findings: dict[str, Row], *, rounds: int, with_memory: bool) -> None:
    """Time the contenders of one network and publish them as ``peers-NETWORK``."""
    workload = WORKLOADS[network]
    steps, errors = runnable(workload)
    timings = interleave(steps, rounds=rounds, warmup=1)
    cpu = {name: spread([run.cpu_s for run in runs]) for name, runs in timings.items()}
    wall = {name: spread([run.wall_s for run in runs]) for name, runs in timings.items()}
    bound = min(cpu[name].median for name in BOUNDS)
    rows: list[Row] = []
    for name in [*BOUNDS, *BAYESIAN]:
        row: Row = {"contender": name}
        if name in cpu:
            row |= {
                "cpu_ms": 1e3 * cpu[name].median,
                "cpu_ms_q1": 1e3 * cpu[name].lower,
                "cpu_ms_q3": 1e3 * cpu[name].upper,
                "wall_ms": 1e3 * wall[name].median,
                "ratio": cpu[name].median / bound,
            }
        if name in cpu and with_memory:
            row |= {
                f"{kind}_mib": peak_mib(name, network, kind) for kind in ("resident", "allocated")
            }
        rows.append(row | findings.get(name, {}) | {"error": errors.get(name, "")})
    publish(f"peers-{network}", rows, targets(rows))


def published() -> dict[str, list[Row]]:
    """Return the newest rows of each network that has been measured."""
    files = {network: FOLDER / f"peers-{network}.json" for network in WORKLOADS}
    return {
        network: json.loads(path.read_text())["rows"]
        for network, path in files.items()
        if path.is_file()
    }


def targets(rows: list[Row]) -> list[Target]:
    """Return how much longer every peer takes whose gradients are right."""
    cpu = {str(row["contender"]): float(row["cpu_ms"]) for row in rows if "cpu_ms" in row}
    right = [
        str(row["contender"])
        for row in rows
        if row.get("gradients") == "yes" and row["contender"] not in (OURS, KEEP)
    ]
    return [
        Target(f"{name} / {ours}", cpu[name] / cpu[ours], least=1.0)
        for ours in (OURS, KEEP)
        for name in right
        if name in cpu
    ]


def examined() -> dict[str, Row]:
    """Return what each contender computes, as columns of the table."""
    found: dict[str, Row] = {}
    for name, contender in BAYESIAN.items():
        try:
            findings = peer_checks.examine(contender)
        except Exception as error:  # a peer that is missing or breaks on the tiny network
            found[name] = {"gradients": f"unknown: {type(error).__name__}"}
            continue
        found[name] = {
            "gradients": findings.gradients,
            "objective": findings.objective,
            "weight_samples": findings.weight_samples,
            **asdict(findings),
        }
    return found


def draw(tables: dict[str, list[Row]], path: Path) -> None:
    """Draw the ratios to the deterministic bound, one panel a network."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        1, len(tables), figsize=(4.2 * len(tables) + 2.4, 3.6), squeeze=False, sharey=True
    )
    for panel, (network, rows) in zip(panels[0], tables.items(), strict=True):
        shown = [row for row in rows if row["contender"] not in BOUNDS]
        names = [str(row["contender"]) for row in shown]
        ratios = [float(row.get("ratio", 0.0)) for row in shown]
        colours = [colour(row) for row in shown]
        panel.barh(names, ratios, color=colours)
        panel.axvline(1.0, color="black", linewidth=1)
        for place, ratio in enumerate(ratios):
            panel.text(ratio, place, f" {ratio:.2f}" if ratio else " does not run", va="center")
        panel.set(title=network, xlabel="CPU time / deterministic network")
        panel.set_xlim(0, 1.2 * max(ratios))
    panels[0][0].invert_yaxis()
    figure.text(
        0.01,
        0.01,
        "blue: hb.Step; grey: right gradients; red: wrong gradients or no weight samples",
    )
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def colour(row: Row) -> str:
    """Return the colour of a contender."""
    if row["contender"] in (OURS, KEEP):
        return "tab:blue"
    right = row.get("gradients") == "yes" and row.get("weight_samples") == "yes"
    return "tab:gray" if right else "tab:red"


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", help=f"of {', '.join(WORKLOADS)}; none: all")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--no-memory", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for network in arguments.networks:
        if network not in WORKLOADS:
            parser.error(f"{network}: expected one of {', '.join(WORKLOADS)}")
    with process_group():
        findings = examined()
        for network in arguments.networks or list(WORKLOADS):
            measure(network, findings, rounds=arguments.rounds, with_memory=not arguments.no_memory)
    draw(published(), FOLDER / "peers.png")
    print(f"picture: {FOLDER / 'peers.png'}")


if __name__ == "__main__":
    main()
