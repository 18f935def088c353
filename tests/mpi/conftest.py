"""Run these tests as one MPI job: ``mpirun -n N python -m mpi4py -m pytest tests/mpi``, N = 1 to 4.

Every rank runs every test, in the same order. After each phase of a test the ranks exchange what
became of it, so that

- a failure on any rank is a failure of the run, and rank 0 shows its traceback;
- a rank that failed while others wait for it in a collective shows its traceback and ends the job;
- a test that hangs on all ranks ends the job with the stacks of every rank.
"""

import contextlib
import faulthandler
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import torch
from mpi4py import MPI

from hpc_bnn.fields.toy_atmosphere import write_toy
from hpc_bnn.group import Group
from hpc_bnn.parallel.grid import Grid, divisors
from hpc_bnn.parallel.mpi import connect
from hpc_bnn.parallel.world import World, start

UNIT = Path(__file__).parents[1] / "unit"
sys.path += [str(UNIT / "fields"), str(UNIT / "train")]  # store_files; tape

# The engine that ``auto`` takes comes first.
ENGINES = ("horovod", "torch") if find_spec("horovod") else ("torch",)
# A rank that failed waits this long for the others to finish the same test.
PATIENCE_S = 15.0
TEST_LIMIT_S = 120.0
END_LIMIT_S = 60.0

ALL_RANKS = connect()
# Outcomes travel on a communicator of their own: a test that fails halfway cannot mix with them.
OUTCOMES = MPI.COMM_WORLD.Dup()

# Standard error of the job, opened before pytest replaces it while a test runs.
STDERR = pytest.StashKey[int]()


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Silence all ranks but 0; trylast, because the terminal reporter must exist."""
    torch.set_num_threads(1)
    config.addinivalue_line("markers", "both_engines: run over every engine, not the default alone")
    config.stash[STDERR] = os.dup(2)
    if OUTCOMES.rank > 0:
        config.get_terminal_writer()._file = Path(os.devnull).open("w")  # noqa: SIM115


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse to start where the ranks would not run the same tests."""
    mine = ([item.nodeid for item in session.items], session.testsfailed)
    if any(other != mine for other in OUTCOMES.allgather(mine)) and not session.testsfailed:
        pytest.exit("the ranks collected different tests", returncode=3)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End a job whose test hangs on every rank."""
    faulthandler.dump_traceback_later(TEST_LIMIT_S, exit=True, file=item.config.stash[STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make the outcome of a phase the same on every rank."""
    report = yield
    if OUTCOMES.size == 1:
        return report
    if not _all_arrived(PATIENCE_S if report.failed else TEST_LIMIT_S):
        _say(item, f"{report.longreprtext}\nthe other ranks do not finish this test")
        MPI.COMM_WORLD.Abort(1)
    everyone = OUTCOMES.allgather((report.outcome, report.longreprtext))
    outcomes = [outcome for outcome, _ in everyone]
    if "failed" in outcomes:
        texts = {rank: text for rank, (outcome, text) in enumerate(everyone) if outcome == "failed"}
        own = texts.pop(OUTCOMES.rank, None)
        others = [f"rank {rank} of {OUTCOMES.size}:\n{text}" for rank, text in texts.items()]
        report.longrepr = "\n\n".join(([own] if own else []) + others)
        report.outcome = "failed"
        if OUTCOMES.rank == 0:  # at once: a later test may hang because of this one
            found = [line for line in report.longrepr.splitlines() if line.startswith("E  ")]
            _say(item, "\n".join(found[:8]))
    elif len(set(outcomes)) > 1:
        report.longrepr = f"the ranks disagree: {', '.join(outcomes)}"
        report.outcome = "failed"
    return report


def pytest_unconfigure() -> None:
    """Wait until rank 0 has printed its summary: ``python -m mpi4py`` aborts where a rank fails."""
    _all_arrived(END_LIMIT_S)


def _all_arrived(limit_s: float) -> bool:
    """Collective: wait for the other ranks without spinning; False: they did not come in time."""
    request, began = OUTCOMES.Ibarrier(), time.monotonic()
    while not request.Test():
        if time.monotonic() - began > limit_s:
            return False
        time.sleep(0.002)
    return True


def _say(item: pytest.Item, text: str) -> None:
    os.write(item.config.stash[STDERR], f"\nrank {OUTCOMES.rank}: {item.nodeid}\n{text}\n".encode())


def _world() -> Group:
    """Collective: return all ranks on a communicator that no failed test has put out of step."""
    return ALL_RANKS.split(0, ALL_RANKS.rank)


@pytest.fixture
def all_ranks() -> Group:
    """All ranks."""
    return _world()


@pytest.fixture(scope="session")
def solo() -> World:
    """One rank that holds every sample and every example: the reference."""
    return World(Grid(1, 1, 0), torch.device("cpu"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on each grid of S sample ranks x D data ranks of this job; with the mark
    ``both_engines`` over each engine.
    """
    if "world" not in metafunc.fixturenames:
        return
    engines = ENGINES[: 2 if metafunc.definition.get_closest_marker("both_engines") else 1]
    size = ALL_RANKS.size
    grids = [(engine, s) for engine in engines[: 2 if size > 1 else 1] for s in divisors(size)]
    names = [f"{s}x{size // s}{'' if e == ENGINES[0] else f'-{e}'}" for e, s in grids]
    metafunc.parametrize("world", grids, ids=names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """The world of a grid, one after the other."""
    engine, sample_ranks = request.param
    started = start(
        _world(), sample_ranks=sample_ranks, engine=engine, stall_timeout_s=TEST_LIMIT_S
    )
    yield started
    # After a failed test the engine may be down already.
    with contextlib.suppress(RuntimeError):
        started.stop()


@pytest.fixture(scope="session")
def toy_folder() -> Iterator[Path]:
    """A year of a toy atmosphere, written by one rank for all. Its 4 x 7 x 16 points, where four
    fields are read, do not divide by three ranks: the transposed CRPS pads. Beside it, in masked/,
    the same year without t2m on a part of the globe.
    """
    all_ranks = _world()
    made = Path(all_ranks.on_first(lambda: tempfile.mkdtemp(), name="test folder"))
    toy: dict[str, Any] = {"years": 1, "rows": 7, "columns": 16, "step_hours": 24, "levels": [500]}

    def write() -> None:
        for name in ("whole", "masked"):
            write_toy(made / name, **toy, format="legacy")
        with netCDF4.Dataset(made / "masked" / "single_levels_2001.nc", "a") as file:
            file["t2m"][:, 2:, :11] = np.ma.masked

    all_ranks.on_first(write, name="test files")
    yield made / "whole"
    all_ranks.on_first(lambda: shutil.rmtree(made), name="test folder")
