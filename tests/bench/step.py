"""CPU time of a training step on one process, beside the deterministic network and torch-blue.

    python tests/bench/step.py                        all networks, about four minutes
    python tests/bench/step.py mlp --rounds 20
    python tests/bench/step.py narrow-mlp --rounds 50       what the calls of a step take
    python tests/bench/step.py mlp --batch 1                one example

The deterministic network on (samples x batch) rows, with the same optimizer, is the lower bound: a
Bayesian step does its matrix products with as many different weights as there are samples, and
draws them. For the SWIN transformer, and for narrow networks, whose time is that of the host, the
bound takes the rows in as many passes as there are samples, as the Bayesian step must. With the
CRPS, a joint loss, ``hb.Step`` runs every sample forward twice; ``keep_graphs`` holds the graphs of
all samples instead. Peers are left out, with a word about it, where they are not installed: pip
install --no-deps torch-blue==1.1.0.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace

import contenders
import torch
from interleave import interleave, spread
from networks import TASKS, Task
from peer_libraries import MissingPeerError, TorchBlue
from report import Row, Target, publish

BOUND = "deterministic"
KEEP, REGENERATE = "hb.Step keep_noise", "hb.Step"
GRAPHS = "hb.Step keep_graphs"
PEER = "torch-blue MC KL"
SAMPLES = {"mlp": 16, "transformer-2": 4, "transformer-6": 4, "swin-nll": 4, "swin-crps": 4}
SAMPLES |= {"demo-swin": 4, "narrow-mlp": 16, "narrow-transformer": 4, "narrow-swin": 4}


def build(name: str, task: Task, samples: int) -> dict[str, Callable[[], object]]:
    """Return the contenders of one network, without peers that are missing."""
    passes = contenders.deterministic(task, samples=samples, passes=samples)
    if name == "swin-crps":
        return {
            BOUND: passes,
            GRAPHS: contenders.hb_step(task, samples=samples, keep_noise=False, keep_graphs=True),
            REGENERATE: contenders.hb_step(task, samples=samples, keep_noise=False),
        }
    if name in ("swin-nll", "demo-swin") or name.startswith("narrow"):
        return {
            BOUND: passes,
            KEEP: contenders.hb_step(task, samples=samples, keep_noise=True),
            REGENERATE: contenders.hb_step(task, samples=samples, keep_noise=False),
        }
    built = {
        BOUND: contenders.deterministic(task, samples=samples),
        f"deterministic, {samples} passes": passes,
        KEEP: contenders.hb_step(task, samples=samples, keep_noise=True),
        REGENERATE: contenders.hb_step(task, samples=samples, keep_noise=False),
    }
    if name == "mlp":
        try:
            built[PEER] = TorchBlue(task, samples=samples).step
            closed = TorchBlue(task, samples=samples, analytical=True)
            built["torch-blue closed-form KL, draws activations"] = closed.step
        except MissingPeerError as error:
            print(f"left out: {error}")
    return built


def measure(name: str, *, rounds: int, batch: int | None) -> None:
    """Time the contenders of one network, on fewer examples where ``batch`` says so, and publish
    them as ``step-NAME``.
    """
    samples, task = SAMPLES[name], TASKS[name]()
    if batch is not None:
        task = replace(task, x=task.x[:batch], y=task.y[:batch])
    timings = interleave(build(name, task, samples), rounds=rounds)
    cpu = {contender: spread([run.cpu_s for run in runs]) for contender, runs in timings.items()}
    wall = {contender: spread([run.wall_s for run in runs]) for contender, runs in timings.items()}
    rows: list[Row] = [
        {
            "contender": contender,
            "samples": samples,
            "cpu_ms": 1e3 * cpu[contender].median,
            "cpu_ms_q1": 1e3 * cpu[contender].lower,
            "cpu_ms_q3": 1e3 * cpu[contender].upper,
            "wall_ms": 1e3 * wall[contender].median,
            "ratio": cpu[contender].median / cpu[BOUND].median,
            "rounds": rounds,
        }
        for contender in timings
    ]
    found = targets(name, {name: s.median for name, s in cpu.items()}) if batch is None else []
    publish(f"step-{name}" + (f"-batch-{batch}" if batch else ""), rows, found)


def targets(name: str, cpu_s: dict[str, float]) -> list[Target]:
    """Return what the step should reach; ratios of medians of CPU time."""
    if name == "swin-crps":
        return [
            Target(f"{GRAPHS} / {BOUND}", cpu_s[GRAPHS] / cpu_s[BOUND], most=1.12),
            Target(f"{REGENERATE} / {BOUND}", cpu_s[REGENERATE] / cpu_s[BOUND], most=1.45),
        ]
    if name != "mlp":
        most = {"swin-nll": 1.12, "narrow-mlp": 1.25}.get(name, 1.10)
        return [
            Target(f"{contender} / {BOUND}", cpu_s[contender] / cpu_s[BOUND], most=most)
            for contender in (KEEP, REGENERATE)
        ]
    found = [
        Target(f"{KEEP} / {BOUND}", cpu_s[KEEP] / cpu_s[BOUND], most=3.2),
        Target(f"{REGENERATE} / {BOUND}", cpu_s[REGENERATE] / cpu_s[BOUND], most=4.4),
    ]
    if PEER in cpu_s:
        found += [
            Target(f"{PEER} / {contender}", cpu_s[PEER] / cpu_s[contender], least=6.0)
            for contender in (KEEP, REGENERATE)
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", help=f"of {', '.join(TASKS)}; none: all")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batch", type=int, help="examples; left out: those of the network")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.networks or list(TASKS):
        if name not in TASKS:
            parser.error(f"{name}: expected one of {', '.join(TASKS)}")
        measure(name, rounds=arguments.rounds, batch=arguments.batch)


if __name__ == "__main__":
    main()
