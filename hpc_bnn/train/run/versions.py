"""The versions of what computes a run: for ``summary.json``, checkpoints and ``doctor``."""

import importlib.metadata
import platform
import subprocess
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

import hpc_bnn
from hpc_bnn.models.find import model_files
from hpc_bnn.parallel.mpi import library_version

PACKAGE = Path(hpc_bnn.__file__).resolve().parent
CHECKOUT = PACKAGE.parent
COMPUTES = ("bayes", "losses", "models", "data", "parallel", "train/step")  # a step
GIT_TIMEOUT_S = 10


def versions() -> dict[str, str]:
    """Return the versions of what computes a run; what is not there is left out.

    For one rank: in a checkout of this package git looks at all of its files.
    """
    commit = commit_of(CHECKOUT)
    return {**versions_here(), **({"commit": commit} if commit else {})}


def versions_here() -> dict[str, str]:
    """Return the versions of what this process has loaded, which reads no checkout."""
    known = {
        "hpc_bnn": hpc_bnn.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "rocm": torch.version.hip,
        "nccl": _nccl(),
        "mpi": library_version(),
        "horovod": _horovod(),
    }
    return {name: version for name, version in known.items() if version}


def history_line(command: str) -> str:
    """Return the attribute ``history`` of the netCDF files that a command writes."""
    return (
        f"hpc_bnn {hpc_bnn.__version__} {command}, torch {torch.__version__}, numpy "
        f"{np.__version__}"
    )


def code_here(package: Path = PACKAGE) -> dict[str, str]:
    """Return a digest of each source file of what computes a step, by its name.

    For one rank a node: it reads 150 files. Of two nodes with different copies, one would add other
    gradients to the sum, and no parameter would differ.
    """
    files = [file for folder in COMPUTES for file in (package / folder).rglob("*.py")]
    return {file.relative_to(package).as_posix(): _digest(file) for file in sorted(files)}


def code_of_model(name: str) -> dict[str, str]:
    """Return a digest of each file of a network of a user's own (``model_files``), for one rank a
    node.
    """
    return {known_as: _digest(file) for known_as, file in model_files(name).items()}


def _digest(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest()[:12]


@cache
def commit_of(checkout: Path) -> str | None:
    """Return the commit of a git checkout, with -dirty where its files were changed since; None
    where the folder is no checkout itself, or git cannot tell.

    What was true when it was asked first: a process has loaded its code by then.
    """
    if not (checkout / ".git").exists():
        return None
    # No lock, which would stop a git command of the user.
    where = [f"--git-dir={checkout / '.git'}", f"--work-tree={checkout}", "--no-optional-locks"]
    try:
        done = subprocess.run(
            ["git", *where, "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=checkout,
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _nccl() -> str | None:
    """Return the NCCL of torch, or the RCCL that stands for it."""
    if torch.version.cuda is None and torch.version.hip is None:
        return None
    try:
        return ".".join(map(str, torch.cuda.nccl.version()))
    except AttributeError:  # torch was built without it
        return None


def _horovod() -> str | None:
    try:
        return importlib.metadata.version("horovod")
    except importlib.metadata.PackageNotFoundError:
        return None
