"""``summary.json``: what a finished run was, for tables and other tools."""

import json
import logging
import math
import platform
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.config import Settings
from hpc_bnn.files import write_json
from hpc_bnn.group import Reduction
from hpc_bnn.parallel.world import World
from hpc_bnn.train.plan.auto_grid import AutoGrid
from hpc_bnn.train.run.checkpoint_cost import CheckpointCost
from hpc_bnn.train.run.durations import DATA, Durations
from hpc_bnn.train.run.energy import Energy, total
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.log import last_loss, read_metrics
from hpc_bnn.train.run.versions import versions
from hpc_bnn.train.step.phases import PHASES

log = logging.getLogger(__name__)


def parameter_checksum(posterior: Posterior, world: World) -> dict[str, float]:
    """Collective over the sample axis where there are per-sample parameters: return the float64 sum
    and sum of squares of all parameters, with the rows of all ranks.
    """
    per_sample = set(posterior.per_sample())
    sums = torch.zeros(2, 2, dtype=torch.float64)  # shared and per-sample: values and squares
    for name, parameter in posterior.named_parameters():
        values = parameter.detach().double()
        sums[int(name in per_sample)] += torch.stack([values.sum(), values.square().sum()]).cpu()
    if per_sample:
        sums[1] = world.sample_axis.all_reduce(sums[1], reduction="sum", name="checksum of members")
    total, squares = sums.sum(0).tolist()
    return {"sum": total, "sum_of_squares": squares}


def peak_memory_bytes(device: torch.device) -> int:
    """Return the largest memory this process has held, of its GPU where it has one."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(kilobytes) * (1 if platform.system() == "Darwin" else 1024)


def device_name(device: torch.device) -> str:
    """Return the model of the GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


@dataclass(frozen=True)
class Course:
    """What the steps of this process measured; none, where the run was killed before its summary.

    steps: that the run has made, in all of its processes.
    loss: of the last step of this process.
    energy: what the meter of this rank read.
    bytes_read: what the batches took of files, in the chunks that these are stored in.
    checkpoints: what they cost; the same on every rank but for a moment.
    """

    steps: int
    loss: float | None
    durations: Durations
    energy: Energy | None
    bytes_read: int
    checkpoints: CheckpointCost


def write_summary(
    world: World,
    folder: RunFolder,
    settings: Settings,
    posterior: Posterior,
    course: Course,
    *,
    validation: dict[str, float],
    validation_units: str,
    best: dict[str, Any],
    diagnostics: dict[str, object],
    auto: AutoGrid | None,
) -> dict[str, Any]:
    """Collective over the world: write the summary of a run that has made all of its steps, and
    return it.

    best: score, value and step of the best validation.
    Without a step of this process the final loss is the newest on file.
    """
    all_ranks, samples = world.all_ranks, settings.posterior.samples
    final_loss = course.loss
    if final_loss is None:
        final_loss = all_ranks.on_first(lambda: last_loss(folder.metrics), name="last loss")
    figures = _figures(world, course)  # before the checksum, which takes memory
    step_s = figures.pop("step_and_wait_s")
    examples_per_s = settings.train.batch_size / step_s
    if course.checkpoints.measured > 1:  # the first was logged alone
        course.checkpoints.log(step_s=step_s, every=settings.train.checkpoint_every)
    data = {
        "bytes_read": figures.pop("bytes_read"),
        "wait_share": figures["data_wait_share"],
        "examples_per_s": examples_per_s,
        "samples_per_s": samples * examples_per_s,
    }
    restarts = all_ranks.on_first(lambda: read_metrics(folder.restarts), name="restarts")
    summary = {
        "steps": course.steps,
        "final_loss": final_loss,
        "parameter_checksum": parameter_checksum(posterior, world),
        "grid": {
            "sample_ranks": world.grid.sample_ranks,
            "data_ranks": world.grid.data_ranks,
            "nodes": world.num_nodes,
            **({} if auto is None else {"mode_auto": auto.record()}),
        },
        "engine": world.engine_name,
        "samples": samples,
        "batch_size": settings.train.batch_size,
        "ema": settings.train.ema,
        **figures,
        "examples_per_s": examples_per_s,
        "validation": validation,
        **({"best_validation": best} if best else {}),
        "validation_units": validation_units,
        **({"diagnostics": diagnostics} if diagnostics else {}),
        "versions": all_ranks.on_first(versions, name="versions"),
        "data": data,
        "checkpoints": course.checkpoints.figures(step_s=step_s),
        "restarts": len(restarts),
        "lost_steps": sum(row["lost_steps"] for row in restarts),
    }

    def write() -> None:
        folder.require_own()
        write_json(folder.summary, summary)

    all_ranks.on_first(write, name="summary")
    return summary


def _figures(world: World, course: Course) -> dict[str, Any]:
    """Collective over the world: return what the ranks measured.

    Times and memory are those of the slowest and largest rank, ``phases_s`` the mean over ranks of
    their median times; NaN where no step was timed. ``bytes_read`` is the sum over ranks.
    """
    durations = course.durations
    steps_s, waits_s = durations.sum(*PHASES), durations.sum(DATA)
    middle, p90 = durations.step_quantiles()
    slowest = {
        "median": middle,
        "p90": p90,
        "communication": _ratio(durations.sum("communication"), steps_s),
        "memory": float(peak_memory_bytes(world.device)),
        "data_wait": _ratio(waits_s, waits_s + steps_s),
        "step_and_wait": _ratio(waits_s + steps_s, durations.count),
    }
    medians = {part: durations.median(part) for part in (DATA, *PHASES)}
    slowest = _reduced(world, slowest, "max")
    sums = _reduced(world, {**medians, "bytes_read": float(course.bytes_read)}, "sum")
    machine = Machine.of(world, course.energy)
    machines = world.all_ranks.gather(machine, name="summary of machines")
    energy = total(
        [one.energy for one in machines if one.is_first_of_node],
        [one.energy for one in machines if not one.is_first_of_node and one.on_gpu],
    )
    return {
        "step_time_s": {"median": slowest["median"], "p90": slowest["p90"]},
        "peak_memory_bytes": int(slowest["memory"]),
        "communication_share": slowest["communication"],
        "data_wait_share": slowest["data_wait"],
        "phases_s": {name: sums[name] / world.grid.world_size for name in medians},
        "energy_j": None if energy is None else energy.joules,
        "energy_of": [] if energy is None else list(energy.of),
        "hosts": sorted({one.host for one in machines}),
        "device": ", ".join(sorted({one.device for one in machines})),
        "step_and_wait_s": slowest["step_and_wait"],
        "bytes_read": int(sums["bytes_read"]),
    }


@dataclass(frozen=True)
class Machine:
    """Where a rank runs, and what its meter read."""

    host: str
    device: str
    is_first_of_node: bool
    on_gpu: bool
    energy: Energy | None

    @classmethod
    def of(cls, world: World, energy: Energy | None) -> "Machine":
        """Describe the machine of this rank."""
        device, on_gpu = device_name(world.device), world.device.type == "cuda"
        return cls(platform.node(), device, world.node_rank == 0, on_gpu, energy)


def _reduced(world: World, values: dict[str, float], reduction: Reduction) -> dict[str, float]:
    """Collective over the world: reduce numbers by name."""
    mine = torch.tensor(list(values.values()), dtype=torch.float64)
    reduced = world.all_ranks.all_reduce(mine, reduction=reduction, name="summary")
    return dict(zip(values, reduced.tolist(), strict=True))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def read_summary(path: Path) -> dict[str, Any] | None:
    """Return the summary of a run that has ended, None where there is none, or none that can be
    used: then it is to be written again.
    """
    if not path.is_file():
        return None
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        checked = {
            "steps": int(summary["steps"]),
            "final_loss": _number(summary["final_loss"]),
            "validation": {key: _number(value) for key, value in summary["validation"].items()},
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        log.warning("%s: not the summary of a run (%s): it is written again", path, what)
        return None
    return {**summary, **checked}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)  # null was written for NaN
