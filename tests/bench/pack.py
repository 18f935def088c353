"""CPU time of reading from a pack and of making one.

    python tests/bench/pack.py                       both grids and packing, some minutes
    python tests/bench/pack.py 32x64 --rounds 40     one grid, reading only
    python tests/bench/pack.py ingest

Reading: one step (C, H, W) of 69 channels in random order, normalised and checked for missing
values, against ``out[...] = fields[step]`` on a ``numpy.memmap`` of the same file, which does
neither. Packing: megabytes of float32 that are written for each second of CPU, from the files that
`reader.py` writes.

Everything is held in memory by the kernel: software is compared, not discs. CPU time of the process
is what a busy machine spoils least; ratios under load are fair, absolute figures are not.
"""

import argparse
import itertools
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from interleave import interleave, spread, timed
from numpy.typing import NDArray
from reader import GRIDS, chosen, scales, several, write
from report import Row, Target, publish

from hpc_bnn.fields.pack.ingest import ingest
from hpc_bnn.fields.pack.pack import open_pack
from hpc_bnn.fields.pack.reader import PackReader
from hpc_bnn.fields.values import Values

LEAST = {"32x64": 0.7, "121x240": 0.85}
LEAST_MB_PER_CPU_S = 100.0
MAP, NORMALISED, PHYSICAL = "memmap", "pack, normalised", "pack, physical"

Fields = NDArray[np.float32]


def read(name: str, *, rounds: int) -> None:
    """Time the readers on one grid and publish them as ``pack-NAME``."""
    rows, columns, steps, count = GRIDS[name]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "source").mkdir()
        write(folder / "source", rows, columns, steps)
        source = chosen(folder / "source")
        header = ingest(source, folder / "pack")
        pack = open_pack(folder / "pack")
        stored = np.memmap(folder / "pack" / "2001.f32", np.float32, "r")
        fields = stored.reshape(steps, header.stride // 4)
        mean, std = scales()
        outs = [np.empty(pack.shape, np.float32) for _ in range(2)]
        size = outs[0].size

        def copy(step: int, out: Fields) -> None:
            out.reshape(-1)[...] = fields[step, :size]

        PackReader(pack).read(3, outs[0])
        if not np.array_equal(outs[0], Values(source).read(range(len(outs[0])), 3, 4)[0]):
            raise AssertionError("the pack and its source hold different numbers")
        order = random.Random(0).sample(range(steps), steps)
        contenders: dict[str, Callable[[int, Fields], None]] = {
            MAP: copy,
            NORMALISED: PackReader(pack, mean=mean, std=std).read,
            PHYSICAL: PackReader(pack).read,
        }
        runs: dict[str, Callable[[], None]] = {
            contender: several(one, itertools.cycle(order), outs, 2 * count)
            for contender, one in contenders.items()
        }
        timings = interleave(runs, rounds=rounds)
    cpu = {k: spread([2 * count / run.cpu_s for run in timed]) for k, timed in timings.items()}
    table: list[Row] = [
        {
            "contender": contender,
            "steps_per_cpu_s": speed.median,
            "q1": speed.lower,
            "q3": speed.upper,
            "ratio": speed.median / cpu[MAP].median,
            "rounds": rounds,
        }
        for contender, speed in cpu.items()
    ]
    ratio = cpu[NORMALISED].median / cpu[MAP].median
    publish(f"pack-{name}", table, [Target(f"{NORMALISED} / {MAP}", ratio, least=LEAST[name])])


def make(*, rounds: int) -> None:
    """Time packing; publish it as ``pack-ingest``."""
    rows, columns, steps, _ = GRIDS["121x240"]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "source").mkdir()
        write(folder / "source", rows, columns, steps // 2)
        source = chosen(folder / "source")
        size = 4e-6 * float(np.prod(source.shape)) * len(source.times)
        speeds = []
        for _ in range(rounds):
            shutil.rmtree(folder / "pack", ignore_errors=True)
            speeds.append(size / timed(partial(ingest, source, folder / "pack")).cpu_s)
    speed = spread(speeds)
    table: list[Row] = [
        {"MB": size, "MB_per_cpu_s": speed.median, "q1": speed.lower, "q3": speed.upper}
    ]
    goal = Target("ingest, MB per CPU s", speed.median, least=LEAST_MB_PER_CPU_S)
    publish("pack-ingest", table, [goal])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", nargs="*", help=f"of {', '.join(GRIDS)}, ingest; none: all")
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    for what in arguments.what or [*GRIDS, "ingest"]:
        if what == "ingest":
            make(rounds=max(2, arguments.rounds // 10))
        elif what in GRIDS:
            read(what, rounds=arguments.rounds)
        else:
            parser.error(f"{what}: expected one of {', '.join(GRIDS)}, ingest")


if __name__ == "__main__":
    main()
