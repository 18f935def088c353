"""The step of each network beside its deterministic one on the same rows, captured or not."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from noise_figures import Row, seconds
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from workloads import WORKLOADS, Workload

import hpc_bnn as hb
from hpc_bnn.config import Settings
from hpc_bnn.losses.base import JointLoss
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.train.plan.estimate import estimate
from hpc_bnn.train.run.build import build, step_settings

GIB = 1 << 30
GRID = Grid(1, 1, 0)
# How a step is run.
MODES: dict[str, dict[str, object]] = {
    "eager": {"capture": "off", "compile": False},
    "captured": {"capture": "auto", "compile": False},
    "compiled": {"capture": "off", "compile": True},
}


def step_rows(device: torch.device, *, tiny: bool) -> Iterator[Row]:
    """Yield a row for each network, precision and mode; what fails says why in its row. Those that
    are compiled first come last.
    """
    for modes in (("eager", "captured"), ("compiled",)):
        for number, (name, make) in enumerate(WORKLOADS.items()):
            workload = make(tiny=tiny)
            for precision, mode in itertools.product(("float32", "bf16"), modes):
                if tiny and mode == "compiled" and (number or precision == "bf16"):
                    continue  # minutes on a CPU
                row: Row = {"network": name, "precision": precision, "mode": mode}
                changed = with_train(workload, precision=precision, **MODES[mode])
                try:
                    yield row | measured(changed, mode, device, tiny=tiny)
                except Exception as error:  # the other rows are worth having
                    yield row | {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
                if device.type == "cuda":
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats(device)


def with_train(workload: Workload, **changes: object) -> Workload:
    """Return the workload with other settings of training."""
    train = workload.settings.train.model_copy(update=changes)
    return Workload(workload.settings.model_copy(update={"train": train}), workload.source)


def measured(workload: Workload, mode: str, device: torch.device, *, tiny: bool) -> Row:
    """Return the figures of one network: milliseconds, ratios, launches, memory."""
    rounds, on_gpu = 1 if tiny else 5, device.type == "cuda"
    precision = workload.settings.train.precision
    x, y = workload.batch(device)
    step = bayesian(workload.settings, workload, device)
    row = timed(step, (x, y), device, rounds=rounds)
    if mode == "captured":
        row["graphs"] = int(step._capture.has_graphs)
    alone = deterministic(workload, x, y, mode=mode)
    bound = timed(alone, (), device, rounds=rounds)
    row["ratio"] = float(row["ms"]) / float(bound["ms"])
    row |= {f"deterministic {key}": bound[key] for key in ("ms", "launches")}
    if mode == "eager" and not (tiny and precision == "bf16"):
        found = estimate(workload.settings, workload.source, GRID)
        row["estimate GiB"] = (found.gpu_bytes if on_gpu else found.cpu_bytes) / GIB
        if on_gpu:
            row["peak of estimate"] = float(row["peak GiB"]) / float(row["estimate GiB"])
    return row


def timed(
    step: Callable[..., object],
    given: tuple[Tensor, ...],
    device: torch.device,
    *,
    rounds: int,
) -> Row:
    """Return milliseconds and launches of a step, and on GPUs the most memory that all took."""
    row: Row = {"ms": 1e3 * seconds(lambda: step(*given), device, rounds=rounds)}
    row["launches"] = launches(lambda: step(*given), device)
    if device.type == "cuda":
        row["peak GiB"] = torch.cuda.max_memory_allocated(device) / GIB
    return row


def bayesian(settings: Settings, workload: Workload, device: torch.device) -> hb.Step:
    """Return the step that ``hpc-bnn train`` would make."""
    parts = build(settings, workload.source)
    world = hb.World(GRID, device)
    parts.posterior.to(device), parts.loss.to(device)
    optimizer = parts.optimizer(1e-4)
    return hb.Step(parts.posterior, parts.loss, optimizer, world, step_settings(settings, parts))


@dataclass
class Deterministic:
    """The passes of the network without a posterior, as many as the Bayesian step has samples."""

    network: nn.Module
    loss: Callable[[Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    passes: int
    precision: str
    x: Tensor

    def run_pass(self) -> None:
        """Add the gradients of one pass."""
        bf16 = self.precision == "bf16"
        with torch.autocast(self.x.device.type, torch.bfloat16, enabled=bf16):
            output = self.network(self.x)
        (self.loss(output.float()) / self.passes).backward()

    def step(self, one_pass: Callable[[], None]) -> None:
        """All passes and the update; asks for the norm, as every trainer asks for something."""
        self.optimizer.zero_grad(set_to_none=False)
        for _ in range(self.passes):
            one_pass()
        grads = [p.grad for p in self.network.parameters() if p.grad is not None]
        if not math.isfinite(float(torch.nn.utils.get_total_norm(grads))):
            raise FloatingPointError("the gradient of the deterministic network is not finite")
        self.optimizer.step()


def deterministic(workload: Workload, x: Tensor, y: Tensor, *, mode: str) -> Callable[[], object]:
    """Return the step of the network alone on the same rows, run as the other is."""
    settings = workload.settings
    parts = build(settings, workload.source)
    network, loss = parts.posterior.module.to(x.device), parts.loss.to(x.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)

    def value(output: Tensor) -> Tensor:
        if isinstance(loss, JointLoss):  # of one member
            return (output - y).abs().mean()
        return loss(output, y).mean()

    samples = settings.posterior.samples
    one = Deterministic(network, value, optimizer, samples, settings.train.precision, x)
    if mode == "compiled":
        network.compile()
    if mode != "captured" or x.device.type != "cuda":
        return lambda: one.step(one.run_pass)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            one.run_pass()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        one.run_pass()
    return lambda: one.step(graph.replay)


def launches(run: Callable[[], object], device: torch.device) -> int:
    """Return how often the host hands work to the GPU in one call; on CPUs the operators called."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities) as recorded:
        run()
    calls = ("LaunchKernel", "GraphLaunch", "MemcpyAsync", "MemsetAsync") if on_gpu else ("aten::",)
    assert recorded.profiler is not None and recorded.profiler.kineto_results is not None
    # Not ``recorded.events()``, which makes trees of them for seconds.
    names = [event.name() for event in recorded.profiler.kineto_results.events()]
    return sum(any(call in name for call in calls) for name in names if name[:2] in ("cu", "at"))
