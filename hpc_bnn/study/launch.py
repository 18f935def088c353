"""Run the points of a plan on this host, one after the other, each under ``mpirun``.

What is finished is skipped, so the same command goes on where it was broken off. A point that fails
leaves a note and its output; the rest goes on.
"""

import contextlib
import json
import logging
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hpc_bnn.files import write_json
from hpc_bnn.parallel.site import AS_ROOT, cores, mpirun_words, read_site
from hpc_bnn.progress import Pace
from hpc_bnn.study.plan_file import Plan
from hpc_bnn.study.points import Point

log = logging.getLogger(__name__)

ENDS_WITHIN_S = 15.0
TAIL = 6000
SAYS_WHY = re.compile(r"hpc-bnn train:|^\w+(?:Error|Exception): ")


@dataclass(frozen=True)
class Attempt:
    """How one run went.

    Attributes
    ----------
    status
        Exit status; None: it outlived the limit and was ended.
    cores, threads
        Cores of the host, and threads of a rank.
    """

    name: str
    status: int | None
    seconds: float
    command: str
    cores: int
    threads: int
    oversubscribed: bool
    said: str = ""


def finished(plan: Plan, point: Point) -> bool:
    """Tell whether a point has run to its end."""
    try:
        text = plan.run_folder(point).summary.read_text(encoding="utf-8")
        return int(json.loads(text)["steps"]) >= plan.study.steps
    except (OSError, ValueError, KeyError, TypeError):
        return False


def run_plan(plan: Plan, *, launcher: Sequence[str] = ()) -> list[str]:
    """Run what is not finished, and return the names of the points that failed.

    launcher: words before ``-n RANKS``; by default the mpirun beside this Python.

    Raises
    ------
    ValueError
        If a point needs several nodes, or the settings were changed since the plan.
    FileNotFoundError
        If there is no launcher.
    """
    far = [point.name for point in plan.points if point.nodes > 1]
    if far:
        raise ValueError(
            f"{plan.folder}: {far[0]} and {len(far) - 1} more points need several nodes; submit "
            f"them with scaling.sh --plan {plan.folder}"
        )
    plan.settings()
    words = list(launcher) or mpirun_words(read_site())
    threads = plan.study.threads
    crowded = sorted({p.ranks for p in plan.points if p.ranks * threads > cores()})
    if crowded:
        ranks = ", ".join(map(str, crowded))
        log.warning(
            f"{ranks} ranks of {threads} thread(s) share {cores()} core(s): "
            "these points are oversubscribed and will be marked as such"
        )
    failed: list[str] = []
    left, ended = sum(not finished(plan, point) for point in plan.points), 0
    pace = Pace(left, window_s=math.inf)  # points differ: all of them tell more than the last
    for number, point in enumerate(plan.points, start=1):
        place = f"{number} of {len(plan.points)}: {point.name}"
        if finished(plan, point):
            log.info("%s is finished", place)
            continue
        eta = f", ETA {pace.at(ended)[1]}" if ended else ""
        log.info("%s%s", place, eta)
        attempt = _run(plan, point, words)
        ended += 1
        plan.attempt(point).parent.mkdir(parents=True, exist_ok=True)
        write_json(plan.attempt(point), asdict(attempt))
        if attempt.status != 0 or not finished(plan, point):
            failed.append(point.name)
            log.warning("%s failed: %s", point.name, _reason(plan, point, attempt))
    return failed


def read_attempt(path: Path) -> Attempt | None:
    """Return how ``run_plan`` fared with a point, None where it never tried."""
    try:
        return Attempt(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def command(plan: Plan, point: Point, launcher: Sequence[str]) -> list[str]:
    """Return the words that run a point; one rank is launched, too, so that all start alike."""
    program = [sys.executable, "-m", "mpi4py", "-m", "hpc_bnn", "train", str(plan.settings_file)]
    run = ["--run", str(plan.run_folder(point).path), "--resume"]
    return [*launcher, "-n", str(point.ranks), *program, *point.overrides, *run]


def environment(user: Mapping[str, str], *, threads: int) -> dict[str, str]:
    """Return the environment of a point: what the user has set stays, but for the threads."""
    added = {"OMPI_MCA_mpi_yield_when_idle": "1"}  # a rank that waits leaves its core
    if os.geteuid() == 0:
        added |= AS_ROOT
    return {**added, **user, "OMP_NUM_THREADS": str(threads)}


def _run(plan: Plan, point: Point, launcher: Sequence[str]) -> Attempt:
    words, path, threads = command(plan, point, launcher), plan.log(point), plan.study.threads
    path.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with path.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(os.environ, threads=threads),
            start_new_session=True,
        )
        try:
            with _terminated_like_ctrl_c():
                status: int | None = process.wait(plan.study.timeout_s)
        except subprocess.TimeoutExpired:
            status = None
            _end(process)
        except BaseException:  # leave no ranks behind
            _end(process)
            raise
    return Attempt(
        name=point.name,
        status=status,
        seconds=time.monotonic() - began,
        command=shlex.join(words),
        cores=cores(),
        threads=threads,
        oversubscribed=point.ranks * threads > cores(),
        said=path.read_text(encoding="utf-8", errors="replace")[-TAIL:] if status else "",
    )


@contextlib.contextmanager
def _terminated_like_ctrl_c() -> Iterator[None]:
    """Make SIGTERM an exception, so that it ends the ranks as well."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a launcher and its ranks, which are in its process group."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _reason(plan: Plan, point: Point, attempt: Attempt) -> str:
    if attempt.status is None:
        return f"it outlived timeout_s = {plan.study.timeout_s:g} and was ended"
    lines = [line for line in attempt.said.splitlines() if SAYS_WHY.search(line)]
    said = f"{lines[-1].strip()}; " if lines else ""
    return f"{said}status {attempt.status}, output in {plan.log(point)}"
