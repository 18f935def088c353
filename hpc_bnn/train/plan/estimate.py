"""The memory that a rank of a run will take, told before the run: ``hpc-bnn train --estimate``.

Counted, not measured: parameters and their gradients, the optimizer, the largest moment of a step
(``traced``), the batches that are prepared ahead, the buffers of exchanges. A validation is between
two steps: the larger of both counts. What the process holds before it has a network (libraries,
data held in memory) is read from the system. Checkpoints are not counted, but snapshots: one rank a
node holds a copy of the state on its way and has up to three files in memory.

On CPUs glibc loses memory between tensors: it keeps blocks up to 32 MiB in a heap once one of that
size was freed. A third of a step's memory is what was measured, on networks from 0.1 to 1.3 GiB.
MALLOC_MMAP_THRESHOLD_=65536 in the environment prevents it, at the price of time.
"""

import math
import os
import platform
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from hpc_bnn.config import Settings
from hpc_bnn.data import Source
from hpc_bnn.parallel.bucket import MOST_BYTES
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.train.plan.traced import Validation, step_bytes, validation_bytes
from hpc_bnn.train.run.build import Parts, build
from hpc_bnn.train.run.optimizers import STATE
from hpc_bnn.train.run.snapshot_writer import KEEP

AHEAD = 4  # batches at a time: one in use, two ready, one being read
ON_GPU = 3  # one in use, one ready, one being copied
GIB = 1 << 30
NO_VALIDATION = Validation(0, 0, 0)
# MiB as --mem and --mem-per-cpu leave them; the CPUs are those of the job on this node.
SLURM_MIB = (("SLURM_MEM_PER_NODE",), ("SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE"))
LOST = 3  # one part in so many of a step's memory lies between tensors in glibc's heap
SMALLER = (
    "use more data ranks or a smaller train.batch_size, posterior.samples_per_pass = 1, "
    "posterior.keep_... = false, train.precision = bf16, or model.recompute = "
    "true where the model has it"
)


@dataclass(frozen=True)
class Estimate:
    """Bytes of one rank.

    process: before there is a network. parameters: means, log sigmas, the rest of the network.
    optimizer: its state, ``moments`` numbers for each trained one. step: gradients, drawn weights,
    activations, work space. batch: inputs and targets of one step. exchange: what gradients take
    twice on their way. lost: between tensors, on CPUs. validation: in place of the step, beside
    the last gradients. ema: the moving average of the weights. snapshots: of the rank of a node
    that writes them, on the host.
    """

    process: int
    parameters: int
    optimizer: int
    step: int
    batch: int
    exchange: int
    lost: int = 0
    validation: Validation = NO_VALIDATION
    ema: int = 0
    moments: int = 2
    snapshots: int = 0

    @property
    def cpu_bytes(self) -> int:
        """All of a rank that computes on CPUs."""
        work = max(self.step, self.validation_cpu_bytes)
        rest = AHEAD * self.batch + self.snapshots
        return self.process + self.lost + self._state + work + rest

    @property
    def gpu_bytes(self) -> int:
        """What a rank with a GPU holds there."""
        return self._state + max(self.step, self.validation_gpu_bytes) + ON_GPU * self.batch

    @property
    def validation_cpu_bytes(self) -> int:
        """What a validation takes in place of the step, where all of it is on the host."""
        found = self.validation
        return self._gradients + max(found.forecast, found.held + found.scores)

    @property
    def validation_gpu_bytes(self) -> int:
        """What a validation takes on a GPU in place of the step."""
        return self._gradients + max(self.validation.forecast, self.validation.held)

    @property
    def _state(self) -> int:
        return self.parameters + self.optimizer + self.exchange + self.ema

    @property
    def _gradients(self) -> int:
        return self.optimizer // self.moments


def _exchange_bytes(trained: int, settings: Settings) -> int:
    """Return what gradients take beside themselves: they move into their bucket, of which one is
    open at a time; what is compressed is there twice.
    """
    if settings.train.compression != "none":
        return trained // 2
    return min(trained, MOST_BYTES)


def estimate(settings: Settings, source: Source, grid: Grid) -> Estimate:
    """Return the memory of a rank of ``grid`` that trains as the settings say."""
    _load_libraries()
    process = resident_bytes()
    parts = build(settings, source)
    parts.posterior.hold(grid.own_samples(settings.posterior.samples))
    every = [*parts.posterior.parameters(), *parts.loss.parameters()]
    trained = sum(p.numel() * p.element_size() for p in every if p.requires_grad)
    averages = sum(p.numel() * max(4, p.element_size()) for p in every if p.requires_grad)
    buffers = [*parts.posterior.buffers(), *parts.loss.buffers()]
    held = sum(t.numel() * t.element_size() for t in (*every, *buffers))
    x, y = source.train.batch(torch.tensor([0]))
    if parts.unroll is not None:
        x, y = parts.unroll.lengthened(x, y, settings.train.longest_rollout)
    one = sum(t.numel() * t.element_size() for t in (x, y))
    step = step_bytes(parts, settings, grid)
    validation = validation_bytes(build(settings, source), settings, grid)
    moments = 2 if settings.optimizer is None else STATE[settings.optimizer.name]
    return Estimate(
        process=process,
        parameters=held,
        optimizer=moments * trained,
        step=step,
        batch=one * len(grid.own_examples(settings.train.batch_size)),
        exchange=_exchange_bytes(trained, settings) if grid.world_size > 1 else 0,
        lost=lost_by_malloc(step),
        validation=validation,
        ema=averages if settings.train.ema else 0,
        moments=moments,
        snapshots=_snapshot_bytes(parts, settings, grid, moments),
    )


def _snapshot_bytes(parts: Parts, settings: Settings, grid: Grid, moments: int) -> int:
    """Return what snapshots take on a node: all rows of members, of all sample ranks."""
    if not settings.train.snapshot_every:
        return 0
    members, size = set(parts.posterior.per_sample()), 0
    own = [*parts.posterior.named_parameters(), *parts.posterior.named_buffers()]
    for name, tensor in (*own, *parts.loss.named_parameters()):
        copies = 1 + tensor.requires_grad * (moments + bool(settings.train.ema))
        rows = grid.sample_ranks if name in members else 1
        size += copies * rows * tensor.numel() * tensor.element_size()
    return (1 + KEEP + 1) * size


def largest(
    settings: Settings, source: Source, grids: Sequence[Grid], *, gpu: bool
) -> tuple[Estimate, Grid]:
    """Return the estimate of the grid whose ranks need most, and the grid."""
    found = [estimate(settings, source, grid) for grid in grids]
    # Later ones would count what the first estimate left in memory.
    found = [replace(each, process=found[0].process) for each in found]
    needs = [each.gpu_bytes if gpu else each.cpu_bytes for each in found]
    most = needs.index(max(needs))
    return found[most], grids[most]


def told(found: Estimate, settings: Settings, grid: Grid, *, gpu: bool) -> list[str]:
    """Return the estimate as lines of text."""
    samples, batch = settings.posterior.samples, settings.train.batch_size
    ahead = f" (with those prepared ahead: {size_text((ON_GPU if gpu else AHEAD) * found.batch)})"
    head = (
        f"one rank of {grid.sample_ranks} x {grid.data_ranks}: {samples // grid.sample_ranks} of "
        f"{samples} samples, {settings.posterior.samples_per_pass} a pass; "
        f"{batch // grid.data_ranks} of {batch} examples; {settings.train.precision}"
    )
    lines = [
        head,
        f"  parameters, means and log sigmas   {size_text(found.parameters)}",
        f"  optimizer                          {size_text(found.optimizer)}",
        *([f"  moving average of the weights      {size_text(found.ema)}"] if found.ema else []),
        f"  gradients, weights, activations    {size_text(found.step)}",
        f"  validation, in place of a step     {_validation(found, gpu=gpu)}",
        f"  batch                              {size_text(found.batch)}{ahead}",
        f"  exchange of gradients              {size_text(found.exchange)}",
    ]
    if found.snapshots:
        lines.append(f"  snapshots, in a node's own memory  {size_text(found.snapshots)}")
    if gpu:
        return [*lines, f"  on the GPU                         {size_text(found.gpu_bytes)}"]
    return [
        *lines,
        f"  process without a network          {size_text(found.process)}",
        f"  lost by malloc (help results)      {size_text(found.lost)}",
        f"  in all                             {size_text(found.cpu_bytes)}",
    ]


def _validation(found: Estimate, *, gpu: bool) -> str:
    if not gpu:
        return size_text(found.validation_cpu_bytes)
    on_host = size_text(found.validation.scores)
    return f"{size_text(found.validation_gpu_bytes)} (and on the host: {on_host})"


def verdict(found: Estimate, *, gpu: bool, capacity: int) -> tuple[str, bool]:
    """Compare with the bytes there are for a rank, 0 if unknown; tell it, and whether it fits."""
    need = found.gpu_bytes if gpu else found.cpu_bytes
    if not capacity:
        return "no device to compare with: give --device-memory GIB", True
    share = f"{need / capacity:.0%} of the {capacity / GIB:.1f} GiB there are for a rank"
    if need <= capacity:
        return f"fits: {share}", True
    return f"does not fit: {share}; {SMALLER}", False


def verdict_by_themselves(needs: Mapping[str, int], *, gpu: bool, capacity: int) -> list[str]:
    """Tell which commands, by the bytes that a rank of each needs by itself, do not fit the bytes
    there are for a rank, 0 if unknown.
    """
    # A GPU holds one member at a time, a host those of a start time.
    advice = dict.fromkeys(needs, "use a device with more memory")
    if not gpu:
        advice = dict.fromkeys(needs, "start fewer ranks on a node")
        advice["evaluate"] = "lower posterior.predict_samples, or start fewer ranks on a node"
    return [
        f"hpc-bnn {name} does not fit: {need / capacity:.0%} of the {capacity / GIB:.1f} GiB there "
        f"are for a rank; {advice[name]}"
        for name, need in needs.items()
        if 0 < capacity < need
    ]


def resident_bytes() -> int:
    """Return what this process holds in memory now."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:  # not Linux: the most it has held
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return pages * resource.getpagesize()


def lost_by_malloc(work: int) -> int:
    """Return what glibc's heap loses between tensors that take so many bytes."""
    return work // LOST if _loses(os.environ) else 0


def _loses(environment: Mapping[str, str]) -> bool:
    return platform.libc_ver()[0] == "glibc" and "MALLOC_MMAP_THRESHOLD_" not in environment


def _load_libraries() -> None:
    """Have torch load what a first step loads, a hundred MB that are not tensors."""
    network = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.LayerNorm(8))
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    network(torch.zeros(8, 8)).sum().backward()
    optimizer.step()


def host_bytes(environment: Mapping[str, str] = os.environ) -> int:
    """Return the memory of this node that the job may use, 0 if unknown."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for names in SLURM_MIB:
        values = [environment.get(name, "") for name in names]
        if all(value.isdigit() for value in values):
            limits.append(math.prod(map(int, values)) << 20)
    try:
        group = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        group = ""
    return min([*limits, int(group)] if group.isdigit() else limits)


def size_text(count: int) -> str:
    """Return a number of bytes in MiB or GiB."""
    if count < GIB:
        return f"{count / (1 << 20):9.1f} MiB"
    return f"{count / GIB:9.2f} GiB"
