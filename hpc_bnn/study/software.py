"""What is built: torch, noise kernels, MPI, Horovod, NCCL, whether they agree; and a finding."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from hpc_bnn.bayes.noise import Purpose, Stream, backend, words
from hpc_bnn.parallel.engine import Engine
from hpc_bnn.parallel.engines import ENGINES
from hpc_bnn.parallel.mpi import library_version
from hpc_bnn.parallel.site import mpirun

KNOWN_WORDS = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
MAPS = Path("/proc/self/maps")  # Linux: the libraries that this process has loaded
VERSION_TIMEOUT_S = 30


@dataclass(frozen=True)
class Finding:
    """One line of the table of ``doctor``, and what to do where it is bad."""

    what: str
    value: str
    good: bool = True
    remedy: str = ""


def probe(what: str, action: Callable[[], str], remedy: str) -> Finding:
    """Return what ``action`` reports; a failure is a bad finding."""
    try:
        return Finding(what, action())
    except (RuntimeError, ValueError, OSError, subprocess.TimeoutExpired) as error:
        return Finding(what, " ".join(str(error).split()), False, remedy)


def software(versions: Mapping[str, str]) -> list[Finding]:
    """Return the findings of this process.

    versions: of what computes a run (``hpc_bnn.train.run.versions``).
    """
    return [
        _package(versions),
        _torch(versions),
        _noise(torch.device("cpu")),
        *([_noise(torch.device("cuda"))] if torch.cuda.is_available() else []),
        _mpi(),
        *map(_engine, ENGINES.values()),
        loaded_once("MPI libraries loaded", r"libmpi(?:_cray|_gnu\w*)?\.so"),
        *([_nccl(versions)] if torch.cuda.is_available() else []),
        launcher(),
    ]


def launcher() -> Finding:
    """Return what started this process, or could start several."""
    if "SLURM_STEP_ID" in os.environ:
        kind = os.environ.get("SLURM_MPI_TYPE", "default")
        return Finding("launcher", f"srun, --mpi={kind}, {_version_of('srun')}")
    launcher = mpirun() or shutil.which("srun")
    if launcher is None:
        return Finding("launcher", "none on PATH")
    version = _version_of(launcher)
    ours = re.search(r"Open MPI v?([\d.]+)", library_version())
    theirs = re.search(r"Open MPI\)? v?([\d.]+)", version)
    same = not (ours and theirs) or ours[1].split(".")[:2] == theirs[1].split(".")[:2]
    return Finding(
        "launcher",
        f"{launcher}, {version}",
        same,
        f"start with the mpirun of {ours[0] if ours else 'the same MPI'}, or rebuild with the "
        "machine's MPI: cmake -D MPI=system",
    )


def _package(versions: Mapping[str, str]) -> Finding:
    commit = f", commit {versions['commit']}" if "commit" in versions else ""
    return Finding("hpc_bnn", f"{versions['hpc_bnn']}{commit}, Python {versions['python']}")


def _torch(versions: Mapping[str, str]) -> Finding:
    cuda = f"CUDA {versions.get('cuda', 'no')}"
    accelerator = f"ROCm {versions['rocm']}" if "rocm" in versions else cuda
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    shown = f"{len(devices)} x {devices[0]}" if devices else "CPU only"
    threads = f"{torch.get_num_threads()} thread(s)"
    return Finding("torch", f"{versions['torch']}, {threads}, {accelerator}, {shown}")


def _noise(device: torch.device) -> Finding:
    name = f"noise kernel ({device.type})"
    module = getattr(backend(device), "__name__", "").rpartition(".")[2]
    drawn = words(Stream(0, Purpose.WEIGHTS), 4, device=device).tolist()
    if drawn != KNOWN_WORDS:
        remedy = "rebuild the package with another compiler"
        return Finding(name, f"{module}: wrong words {drawn}", False, remedy)
    remedy = "install the package with a C compiler (CPU) or triton (GPU)"
    return Finding(name, module, module != "noise_reference", remedy)


def _mpi() -> Finding:
    version = library_version()
    needed = importlib.util.find_spec("horovod") is not None
    good = not (needed and version.startswith("none"))
    return Finding("MPI of mpi4py", version, good, "install an MPI library that mpi4py finds")


def _engine(engine: type[Engine]) -> Finding:
    if not engine.is_installed():
        return Finding(engine.title, "not installed")
    built, good = engine.describe()
    return Finding(engine.title, built, good, engine.missing(torch.device("cpu")))


def _nccl(versions: Mapping[str, str]) -> Finding:
    """NCCL of torch, and whether Horovod brought another one into this process."""
    loaded = loaded_once("", r"lib(?:nccl|rccl)\.so")
    return Finding(
        "NCCL",
        f"torch {versions.get('nccl', 'none')}; loaded: {loaded.value}",
        loaded.good,
        "build Horovod against the NCCL that torch loads (HOROVOD_NCCL_HOME)",
    )


def loaded_once(what: str, pattern: str) -> Finding:
    """Two copies of one library in a process do not see each other's ranks."""
    if not MAPS.is_file():
        return Finding(what, "unknown on this system")
    # address, rights, offset, device, inode, and a path, which may hold spaces
    lines = [line.split(maxsplit=5) for line in MAPS.read_text(errors="replace").splitlines()]
    paths = {words[5].removesuffix(" (deleted)") for words in lines if len(words) == 6}
    copies = sorted({os.path.realpath(p) for p in paths if re.match(pattern, Path(p).name)})
    return Finding(
        what,
        ", ".join(copies) or "none",
        len(copies) <= 1,
        "mpi4py, Horovod and torch must use one and the same; rebuild what uses the other, or set "
        "LD_LIBRARY_PATH",
    )


def _version_of(command: str) -> str:
    try:
        done = subprocess.run(
            [command, "--version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"version unknown ({error})"
    return (done.stdout or done.stderr).strip().splitlines()[0] if done.stdout else "?"
