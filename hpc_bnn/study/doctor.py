"""What is built and wired here: one finding a line, each with a remedy."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

import hpc_bnn
from hpc_bnn.bayes.noise import Purpose, Stream, backend, words
from hpc_bnn.parallel.comms import Channel, library_version
from hpc_bnn.parallel.engine import describe_horovod
from hpc_bnn.parallel.world import split

COLLECTIVE_TIMEOUT_S = 120
# Two harmless ranks may run as root, in a container; Open MPI 4 reads the first pair, 5 the second.
AS_ROOT = {
    f"{layer}_ALLOW_RUN_AS_ROOT{suffix}": "1"
    for layer in ("OMPI", "PRTE")
    for suffix in ("", "_CONFIRM")
}
KNOWN_WORDS = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@dataclass(frozen=True)
class Finding:
    """One line of the table."""

    what: str
    value: str
    good: bool = True
    remedy: str = ""


def diagnose(channel: Channel) -> list[Finding]:
    """Collective over the world: return the findings; on one rank it starts a 2-rank collective of
    its own.
    """
    findings = [
        Finding("hpc_bnn", f"{hpc_bnn.__version__}, Python {sys.version.split()[0]}"),
        Finding(
            "torch",
            f"{torch.__version__}, {torch.get_num_threads()} thread(s), CUDA "
            f"{torch.version.cuda or 'no'}",
        ),
        _devices(),
        _noise(torch.device("cpu")),
        *([_noise(torch.device("cuda"))] if torch.cuda.is_available() else []),
        _mpi(),
        _horovod(),
        Finding("launcher", shutil.which("srun") or _mpirun() or "none on PATH"),
        Finding("ranks", f"{channel.size} in this world"),
    ]
    findings.append(_collective(channel) if channel.size > 1 else _collective_of_two())
    return findings


def sum_over_world(channel: Channel) -> float:
    """Collective: return the seconds of a Horovod sum over the world, having checked its value.

    Raises
    ------
    RuntimeError
        If the sum is wrong.
    """
    world = split(channel, mode="data", device="cpu")
    parameter = torch.nn.Parameter(torch.zeros(4))
    reducer = world.reducer([("doctor", parameter)], passes=1)
    began = time.perf_counter()
    torch.autograd.backward(parameter.sum() * (channel.rank + 1.0))
    reducer.wait()
    elapsed = time.perf_counter() - began
    expected = (channel.size + 1.0) / 2.0
    assert parameter.grad is not None
    if not torch.allclose(parameter.grad, torch.full((4,), expected)):
        raise RuntimeError(
            f"the mean of ranks 1..{channel.size} came out as {parameter.grad[0]}, expected "
            f"{expected}"
        )
    return elapsed


def _devices() -> Finding:
    count = torch.cuda.device_count()
    if count == 0:
        return Finding("devices", "CPU only")
    return Finding("devices", f"{count} x {torch.cuda.get_device_name(0)}")


def _noise(device: torch.device) -> Finding:
    name = f"noise kernel ({device.type})"
    module = getattr(backend(device), "__name__", "").rpartition(".")[2]
    found = words(Stream(0, Purpose.WEIGHTS), 4, device=device).tolist()
    if found != KNOWN_WORDS:
        return Finding(
            name,
            f"{module}: wrong words {found}",
            False,
            "rebuild the package with another compiler",
        )
    compiled = module != "noise_reference"
    return Finding(
        name, module, compiled, "install the package with a C compiler (CPU) or triton (GPU)"
    )


def _mpi() -> Finding:
    version = library_version()
    missing = version.startswith("none")
    needed = importlib.util.find_spec("horovod") is not None
    return Finding(
        "MPI of mpi4py",
        version,
        not (missing and needed),
        "install an MPI library that mpi4py finds",
    )


def _horovod() -> Finding:
    try:
        version = importlib.metadata.version("horovod")
    except importlib.metadata.PackageNotFoundError:
        return Finding("Horovod", "not installed: one rank only")
    built, good = describe_horovod()
    return Finding(
        "Horovod",
        f"{version}, {built}",
        good,
        "rebuild it with HOROVOD_WITH_MPI=1 (cmake --build build)",
    )


def _collective(channel: Channel) -> Finding:
    return _told(
        f"collective of {channel.size} ranks",
        lambda: f"correct, {sum_over_world(channel) * 1e3:.1f} ms",
    )


def _collective_of_two() -> Finding:
    what = "collective of 2 ranks"
    launcher = _mpirun()
    if importlib.util.find_spec("horovod") is None:
        return Finding(what, "skipped: no Horovod")
    if launcher is None:
        return Finding(what, "skipped: no mpirun on PATH; run hpc-bnn doctor under srun")
    command = [
        launcher,
        "-n",
        "2",
        "--oversubscribe",
        sys.executable,
        "-m",
        "mpi4py",
        "-m",
        "hpc_bnn",
        "doctor",
    ]

    def run() -> str:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=COLLECTIVE_TIMEOUT_S,
            env={**AS_ROOT, **os.environ} if os.geteuid() == 0 else None,
        )
        lines = [line for line in done.stdout.splitlines() if what in line]
        if done.returncode or not lines:
            raise RuntimeError(_shortened((done.stderr or done.stdout).strip()))
        return lines[0].partition(what)[2].strip()

    return _told(what, run)


def _mpirun() -> str | None:
    """Return the mpirun beside this Python, which is of the MPI it was built with, or on PATH."""
    beside = Path(sys.executable).parent / "mpirun"
    return str(beside) if beside.is_file() else shutil.which("mpirun")


def _shortened(text: str, limit: int = 600) -> str:
    """Return head and tail of a long message: launchers put the reason first, Python last."""
    return text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 2 :]}"


def _told(what: str, action: Callable[[], str]) -> Finding:
    try:
        return Finding(what, action())
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
        text = " ".join(str(error).split())
        return Finding(
            what, text, False, "compare the MPI libraries above; start with the mpirun of that MPI"
        )
