"""Peak memory of a training step: the deterministic network, hb.Step and torch-blue.

    python tests/bench/memory.py                      mlp and transformer-2, two minutes
    python tests/bench/memory.py transformer-6        two minutes
    python tests/bench/memory.py swin-nll swin-crps   four minutes
    python tests/bench/memory.py mlp --repeats 3

Each contender runs in a process of its own: it is built, then two steps run. Two numbers are
taken over those steps. ``resident``: rise of the process's largest resident set (Linux, VmHWM)
over the resident set before the first step, which includes what malloc keeps or loses to
fragmentation. ``allocated``: largest sum of live tensors as torch's allocator counts it, over the
same state; exact, in a run of its own because recording takes memory itself. Both include the
gradients and Adam's state, which the first step makes.

The resident set depends on malloc. glibc maps blocks from 128 KiB on one by one, but raises that
limit to the size of each mapped block that is freed, up to 32 MiB; from then on tensors share a
heap, whose holes count as resident and grow with the number of passes, for the deterministic
network too ("16 passes"). With MALLOC_MMAP_THRESHOLD_=131072 in the environment the limit stays
and the resident set follows the allocated one.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import contenders
import torch
from networks import TASKS
from peer_libraries import MissingPeerError, TorchBlue
from report import Row, Target, publish
from torch import nn
from torch.profiler import ProfilerActivity, profile

from hpc_bnn.bayes.selection import random_names

MIB = 2**20
STEPS = 2  # the second starts with the state that the first has made
NO_PEER = 3  # exit code of a child whose peer library is not installed

# Name, kind, samples. The deterministic network sees samples x batch rows, at once or one pass
# after another.
Run = tuple[str, str, int]
RUNS: dict[str, list[Run]] = {
    "mlp": [
        ("deterministic, 1 x 64 rows", "deterministic", 1),
        ("deterministic, 16 x 64 rows", "deterministic", 16),
        ("hb.Step, 16 samples", "regenerate", 16),
        ("hb.Step keep_noise, 16 samples", "keep", 16),
        ("torch-blue MC KL, 16 samples", "torch-blue", 16),
    ],
    **{
        f"transformer-{depth}": [
            ("deterministic, 1 x 32 rows", "deterministic", 1),
            ("deterministic, 16 passes of 32 rows", "passes", 16),
            ("hb.Step, 1 sample", "regenerate", 1),
            ("hb.Step, 4 samples", "regenerate", 4),
            ("hb.Step, 16 samples", "regenerate", 16),
            ("hb.Step keep_noise, 4 samples", "keep", 4),
        ]
        for depth in (2, 6)
    },
    "swin-nll": [
        ("deterministic, 1 x 4 rows", "deterministic", 1),
        ("hb.Step, 1 sample", "regenerate", 1),
        ("hb.Step, 4 samples", "regenerate", 4),
        ("hb.Step, 16 samples", "regenerate", 16),
    ],
    "swin-crps": [  # which has no value for one sample
        ("hb.Step, 2 samples", "regenerate", 2),
        ("hb.Step, 4 samples", "regenerate", 4),
        ("hb.Step, 16 samples", "regenerate", 16),
        ("hb.Step keep_graphs, 4 samples", "graphs", 4),
    ],
}


def build(network: str, kind: str, samples: int) -> Callable[[], object]:
    """Return the step of one contender."""
    task = TASKS[network]()
    if kind == "deterministic":
        return contenders.deterministic(task, samples=samples)
    if kind == "passes":
        return contenders.deterministic(task, samples=samples, passes=samples)
    if kind == "torch-blue":
        return TorchBlue(task, samples=samples).step
    return contenders.hb_step(
        task, samples=samples, keep_noise=kind == "keep", keep_graphs=kind == "graphs"
    )


def child(network: str, kind: str, samples: int, measure: str) -> None:
    """Run one contender in this process and print its peak in bytes."""
    torch.set_num_threads(1)
    load_libraries()
    try:
        step = build(network, kind, samples)
    except MissingPeerError as error:
        print(error, file=sys.stderr)
        sys.exit(NO_PEER)
    print(resident_peak(step) if measure == "resident" else allocated_peak(step))


def load_libraries() -> None:
    """Train something tiny once: loading code is not memory of a step."""
    network = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU())
    optimizer = contenders.adam(network)
    network(torch.randn(64, 8)).sum().backward()
    optimizer.step()


def resident_peak(step: Callable[[], object]) -> int:
    """Return the rise of the largest resident set over ``STEPS`` steps, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")  # start VmHWM anew from the present resident set
    before = status_bytes("VmRSS")
    for _ in range(STEPS):
        step()
    return status_bytes("VmHWM") - before


def status_bytes(field: str) -> int:
    """Return a field of this process's /proc status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(
        f"/proc/self/status has no {field}; resident sets are measured on Linux only"
    )


def allocated_peak(step: Callable[[], object]) -> int:
    """Return the rise of the largest sum of live tensors over ``STEPS`` steps, in bytes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        for _ in range(STEPS):
            step()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        recorded.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    sizes = [
        (event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]"
    ]
    live = peak = 0
    for _, size in sorted(sizes, key=lambda item: item[0]):
        live += size
        peak = max(peak, live)
    return peak


def run(network: str, kind: str, samples: int, measure: str) -> int | None:
    """Return the peak in bytes of one contender in a fresh process; None: peer missing."""
    command = [sys.executable, __file__, "--child", network, kind, str(samples), measure]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == NO_PEER:
        print(f"left out: {done.stderr.strip().splitlines()[-1]}")
        return None
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return int(done.stdout)


def measure(network: str, *, repeats: int) -> None:
    """Measure the contenders of one network and publish them as ``memory-NETWORK``."""
    peaks: dict[str, dict[str, float]] = {"resident": {}, "allocated": {}}
    rows: list[Row] = []
    for name, kind, samples in RUNS[network]:
        resident = [run(network, kind, samples, "resident") for _ in range(repeats)]
        if None in resident:
            continue
        allocated = run(network, kind, samples, "allocated")
        assert allocated is not None
        peaks["resident"][name] = statistics.median(v for v in resident if v is not None)
        peaks["allocated"][name] = allocated
        rows.append(
            {
                "contender": name,
                "resident_mib": peaks["resident"][name] / MIB,
                "resident_mib_min": min(resident) / MIB,  # type: ignore[type-var]
                "resident_mib_max": max(resident) / MIB,  # type: ignore[type-var]
                "allocated_mib": allocated / MIB,
                "repeats": repeats,
            }
        )
    malloc = {k: v for k, v in os.environ.items() if k.startswith(("MALLOC_", "GLIBC_TUN"))}
    print(f"malloc settings: {malloc or 'defaults'}")
    bounds = [bound for kind, of_kind in peaks.items() for bound in targets(network, kind, of_kind)]
    publish(f"memory-{network}", rows, bounds)


def targets(network: str, kind: str, peaks: dict[str, float]) -> list[Target]:
    """Return what the step should reach in ``kind`` of memory, resident or allocated."""
    if network == "mlp":
        peer = peaks.get("torch-blue MC KL, 16 samples")
        ours = ("hb.Step, 16 samples", "hb.Step keep_noise, 16 samples")
        return [
            Target(f"{kind}: {name} / torch-blue", peaks[name] / peer, most=1 / 6)
            for name in ours
            if peer
        ]
    fewest = next(name for name in peaks if name.startswith("hb.Step"))
    found = [
        Target(f"{kind}: {name} / {fewest}", peaks[name] / peaks[fewest], most=1.05)
        for name in ("hb.Step, 4 samples", "hb.Step, 16 samples")
    ]
    bound = next((name for name in peaks if name.startswith("deterministic, 1 x")), None)
    if bound is not None:
        module = TASKS[network]().network()
        weights = sum(module.get_parameter(name).numel() for name in random_names(module))
        # Beyond the deterministic step: gradient and two Adam moments of log_sigma, drawn weights.
        allowed = peaks[bound] + 4 * 4 * weights
        name = f"{kind}: {fewest} / (deterministic + parameters)"
        found.append(Target(name, peaks[fewest] / allowed, most=1.05))
    return found


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        network, kind, samples, what = sys.argv[2:]
        child(network, kind, int(samples), what)
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", help=f"of {', '.join(RUNS)}; none: the first two")
    parser.add_argument("--repeats", type=int, default=1, help="processes per contender")
    arguments = parser.parse_args()
    for network in arguments.networks or list(RUNS)[:2]:
        if network not in RUNS:
            parser.error(f"{network}: expected one of {', '.join(RUNS)}")
        measure(network, repeats=arguments.repeats)


if __name__ == "__main__":
    main()
