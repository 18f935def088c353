"""What forecasts from many starts cost beside the bare network: member-steps per CPU-second.

    python tests/bench/forecast.py RUN                100 starts x 16 members x 5 steps, one process
    python tests/bench/forecast.py RUN --rounds 9 --part 24

RUN: a run of ``hpc-bnn train`` on fields, such as demo.yaml with a few steps. Contenders take
turns, each with ``part`` starts of all members a round (one thread, CPU time, what the system
writes included):

* the network alone: ``to_module`` of a member on a batch that lies ready, in inference mode, one
  start at a time and eight;
* ``forecast``: all that ``hpc-bnn forecast --starts`` does once a run is loaded: drawing weights,
  reading states, stepping, checking, files, into a folder and into one file.

Writes ``build/bench/forecast.{csv,json}``.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from interleave import Timing, interleave, spread
from report import Row, Target, publish

from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.score.dealt_starts import AT_ONCE
from hpc_bnn.train.score.forecast import forecast, plan_forecast
from hpc_bnn.train.score.rollout import Rollout
from hpc_bnn.train.score.trained import Trained, load_trained

ALONE = World(Grid(1, 1, 0), torch.device("cpu"))
LEAST = 0.9  # of the network alone


def bare(trained: Trained, starts: list[int], *, at_once: int, passes: int) -> Callable[[], object]:
    """Return what runs the network ``passes`` times on batches of ``at_once`` starts."""
    rollout, times = Rollout(trained.parts, ALONE.device), torch.tensor(starts[:at_once])
    forcing = rollout.fields.record.forcing(times)
    x = torch.cat([rollout.history(times).flatten(1, 2), forcing], 1).float()
    network = trained.posterior.to_module(0)

    def run() -> None:
        with torch.inference_mode():
            for _ in range(passes):
                network(x)

    return run


def forecasting(
    trained: Trained, starts: list[int], steps: int, members: int, target: str, scratch: Path
) -> Callable[[], object]:
    """Return what forecasts from the starts into new files."""
    path = scratch / target
    plan = plan_forecast(trained, starts, steps=steps, members=members, is_set=True)

    def run() -> None:
        forecast(trained, ALONE, path, plan)
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--starts", type=int, default=100)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--part", type=int, default=0, help="starts of a round; default: all")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    trained = load_trained(ALONE, RunFolder(asked.run))
    fields = trained.parts.source.fields
    assert fields is not None
    starts = fields.test_times[: asked.part or asked.starts].tolist()
    work = len(starts) * asked.members * asked.steps  # member-steps of a round
    with tempfile.TemporaryDirectory() as scratch:
        contenders = {
            "network, one start a pass": bare(trained, starts, at_once=1, passes=work),
            f"network, {AT_ONCE} starts a pass": bare(
                trained, starts, at_once=AT_ONCE, passes=work // AT_ONCE
            ),
            "forecast, folder": forecasting(
                trained, starts, asked.steps, asked.members, "set", Path(scratch)
            ),
            "forecast, one file": forecasting(
                trained, starts, asked.steps, asked.members, "set.nc", Path(scratch)
            ),
        }
        timings = interleave(contenders, rounds=asked.rounds, warmup=1)
    rows = [row(name, every, work) for name, every in timings.items()]
    rates = [float(one["per_cpu_s"]) for one in rows]
    best = max(rates[:2])
    targets = [
        Target(f"{row_['contender']} over the network alone", rate / best, least=LEAST)
        for row_, rate in zip(rows[2:], rates[2:], strict=True)
    ]
    publish("forecast", rows, targets)


def row(contender: str, timings: list[Timing], work: int) -> Row:
    """Return medians and quartiles of member-steps per CPU-second."""
    rate = spread([work / each.cpu_s for each in timings])
    return {
        "contender": contender,
        "member_steps": work,
        "per_cpu_s": rate.median,
        "lower": rate.lower,
        "upper": rate.upper,
        "per_wall_s": spread([work / each.wall_s for each in timings]).median,
    }


if __name__ == "__main__":
    main()
