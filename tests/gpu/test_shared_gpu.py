"""Ranks that share one GPU give the run of one rank: torch.distributed over gloo, and Horovod
without NCCL. A variable of the tests lifts the guard that refuses such jobs.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from one_gpu import train

import hpc_bnn as hb
from hpc_bnn.parallel.engines import ENGINES
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.launcher import SHARED_GPU

if shutil.which("mpirun") is None:
    pytest.skip("no mpirun starts several ranks", allow_module_level=True)

PROGRAM = Path(__file__).with_name("one_gpu.py")


def run(
    ranks: int, engine: str, device: torch.device, sample_ranks: int
) -> tuple[str, list[float]]:
    as_root = {
        f"{who}_ALLOW_RUN_AS_ROOT{how}": "1" for who in ("OMPI", "PRTE") for how in ("", "_CONFIRM")
    }
    done = subprocess.run(
        [
            "mpirun",
            "--oversubscribe",
            "-n",
            str(ranks),
            sys.executable,
            "-m",
            "mpi4py",
            str(PROGRAM),
        ]
        + [engine, device.type, str(sample_ranks)],
        env={**os.environ, **as_root, SHARED_GPU: "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    size, kind, *numbers = done.stdout.split()
    assert int(size) == ranks
    return kind, list(map(float, numbers))


@pytest.mark.parametrize("engine", ENGINES)
def test_ranks_of_one_gpu_train_as_one_rank(engine: str, device: torch.device) -> None:
    missing = ENGINES[engine].missing(torch.device("cpu"))
    if missing:
        pytest.skip(f"{engine}: {missing}")
    on_gpu = device.type == "cuda"
    if engine == "horovod" and not on_gpu:
        pytest.skip("horovod on CPUs is what tests/mpi run on")
    expected = train(hb.World(Grid(1, 1, 0), device))
    for ranks, sample_ranks in ((2, 2), (2, 1), (4, 2)) if on_gpu else ((2, 2),):
        kind, numbers = run(ranks, engine, device, sample_ranks)
        assert kind == device.type
        assert numbers == pytest.approx(expected, rel=1e-4), (ranks, sample_ranks)
