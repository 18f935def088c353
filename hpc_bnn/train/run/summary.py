"""``summary.json``: what a finished run was, for tables and other tools."""

import json
import logging
import math
import platform
import resource
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.config import Settings
from hpc_bnn.files import write_json
from hpc_bnn.parallel.world import World
from hpc_bnn.train.plan.auto_grid import AutoGrid
from hpc_bnn.train.run.energy import Energy, total
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.log import last_loss, read_metrics
from hpc_bnn.train.run.versions import versions
from hpc_bnn.train.step.phases import PHASES
from hpc_bnn.train.step.step_report import Report

log = logging.getLogger(__name__)

WARMUP_STEPS = 2  # the first steps allocate memory and connect ranks


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


def write_summary(
    world: World,
    folder: RunFolder,
    settings: Settings,
    *,
    steps: int,
    posterior: Posterior,
    reports: Sequence[Report],
    data_waits: Sequence[float],
    validation: dict[str, float],
    energy: Energy | None,
    bytes_read: int,
    auto: AutoGrid | None,
) -> dict[str, Any]:
    """Collective over the world: write the summary of a run that has ended and return it.

    Parameters
    ----------
    reports, data_waits
        Of the steps of this process. Without any, the run was killed before its summary, and the
        final loss is the newest on file.
    energy
        What this rank's meter read.
    bytes_read
        What the training batches of this rank took of files, in the chunks that they are stored in.
    """
    samples, batch_size = settings.posterior.samples, settings.train.batch_size
    if reports:
        final_loss = reports[-1].loss
    else:
        final_loss = world.all_ranks.on_first(lambda: last_loss(folder.metrics), name="last loss")
    warm = WARMUP_STEPS if len(reports) > WARMUP_STEPS else 0
    timed, waits = reports[warm:], data_waits[warm:]
    # Before the checksum, which takes memory.
    figures = _figures(world, timed, waits, energy)
    data = {
        "bytes_read": _sum(world, bytes_read),
        "wait_share": figures["data_wait_share"],
        **_rates(world, timed, waits, batch_size=batch_size, samples=samples),
    }
    restarts = world.all_ranks.on_first(lambda: read_metrics(folder.restarts), name="restarts")
    summary = {
        "steps": steps,
        "final_loss": final_loss,
        "parameter_checksum": parameter_checksum(posterior, world),
        "grid": {
            "sample_ranks": world.grid.sample_ranks,
            "data_ranks": world.grid.data_ranks,
            "nodes": world.num_nodes,
            **({} if auto is None else {"mode_auto": auto.record()}),
        },
        "samples": samples,
        "batch_size": batch_size,
        **figures,
        "examples_per_s": data["examples_per_s"],
        "validation": validation,
        "versions": world.all_ranks.on_first(versions, name="versions"),
        "data": data,
        "restarts": len(restarts),
        "lost_steps": sum(row["lost_steps"] for row in restarts),
    }

    def write() -> None:
        folder.require_own()
        write_json(folder.summary, summary)

    world.all_ranks.on_first(write, name="summary")
    return summary


def _sum(world: World, count: int) -> int:
    """Collective over the world: return the sum over its ranks."""
    total = world.all_ranks.all_reduce(torch.tensor(count), reduction="sum", name="data report")
    return int(total)


def _rates(
    world: World,
    timed: Sequence[Report],
    waits_s: Sequence[float],
    *,
    batch_size: int,
    samples: int,
) -> dict[str, float]:
    """Collective over the world: return the rates of the slowest rank, its wait for data included;
    NaN where no step was timed.
    """
    seconds = sum(report.step_time_s for report in timed) + sum(waits_s)
    mean = torch.tensor(seconds / len(timed) if timed else math.nan, dtype=torch.float64)
    slowest = world.all_ranks.all_reduce(mean, reduction="max", name="data report")
    examples_per_s = batch_size / float(slowest)
    return {"examples_per_s": examples_per_s, "samples_per_s": samples * examples_per_s}


def _figures(
    world: World,
    timed: Sequence[Report],
    data_times: Sequence[float],
    energy: Energy | None,
) -> dict[str, Any]:
    """Collective over the world: return what the ranks measured; times and memory are those of the
    slowest and largest rank, ``phases_s`` the mean over ranks of their median times; NaN where no
    step was timed.
    """
    times = sorted(report.step_time_s for report in timed)
    only = times[0] if times else math.nan
    waits, data_wait = sum(r.phases_s["communication"] for r in timed), sum(data_times)
    of_phases: dict[str, list[float]] = {p: [r.phases_s[p] for r in timed] for p in PHASES}
    phases = {"data": data_times, **of_phases}
    mine = torch.tensor(
        [
            median(times) if times else math.nan,
            quantiles(times, n=10, method="inclusive")[-1] if len(times) > 1 else only,
            waits / sum(times) if times else math.nan,
            float(peak_memory_bytes(world.device)),
            data_wait / (data_wait + sum(times)) if times else math.nan,
        ],
        dtype=torch.float64,
    )
    middle, high, share, memory, data_share = world.all_ranks.all_reduce(
        mine, reduction="max", name="summary"
    ).tolist()
    middles = torch.tensor(
        [median(each) if each else math.nan for each in phases.values()], dtype=torch.float64
    )
    summed = world.all_ranks.all_reduce(middles, reduction="sum", name="summary of phases")
    phases_s = dict(zip(phases, (summed / world.grid.world_size).tolist(), strict=True))
    role = "first of its node" if world.node_rank == 0 else world.device.type
    machines = world.all_ranks.gather(
        (platform.node(), device_name(world.device), role, energy), name="summary of machines"
    )
    firsts, others = (
        [own for _, _, of, own in machines if of == metered]
        for metered in ("first of its node", "cuda")
    )
    whole = total(firsts, others)
    return {
        "step_time_s": {"median": middle, "p90": high},
        "peak_memory_bytes": int(memory),
        "communication_share": share,
        "data_wait_share": data_share,
        "phases_s": phases_s,
        "energy_j": None if whole is None else whole.joules,
        "energy_of": [] if whole is None else list(whole.of),
        "hosts": sorted({host for host, _, _, _ in machines}),
        "device": ", ".join(sorted({device for _, device, _, _ in machines})),
    }


def read_summary(path: Path) -> dict[str, Any] | None:
    """Return the summary of a run that has ended, None where there is none, or none that can be
    used: then it is to be written again.
    """
    if not path.is_file():
        return None
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        said = {
            "steps": int(summary["steps"]),
            "final_loss": _number(summary["final_loss"]),
            "validation": {key: _number(value) for key, value in summary["validation"].items()},
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        log.warning("%s: not the summary of a run (%s): it is written again", path, what)
        return None
    return {**summary, **said}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)  # null was written for NaN
