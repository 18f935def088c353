"""What is built and wired here, as a table for a support ticket: one finding a line, each bad one
with its remedy.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from hpc_bnn.group import Group
from hpc_bnn.study.exchanges import REMEDY, exchanges
from hpc_bnn.study.finding import Finding, told
from hpc_bnn.study.machine import machine
from hpc_bnn.study.software import mpirun, software
from hpc_bnn.train.run.versions import versions

COLLECTIVE_TIMEOUT_S = 120
# Two harmless ranks may run as root, in a container; Open MPI 4 reads the first pair, 5 the second.
AS_ROOT = {
    f"{layer}_ALLOW_RUN_AS_ROOT{suffix}": "1"
    for layer in ("OMPI", "PRTE")
    for suffix in ("", "_CONFIRM")
}


def diagnose(all_ranks: Group, folder: Path) -> list[Finding]:
    """Collective over the world: return the findings; on one rank it starts two ranks of its own.

    folder: where runs would be written.
    """
    found = all_ranks.on_first(versions, name="versions")
    findings = [*software(found), *machine(all_ranks, folder)]
    if all_ranks.size > 1:
        return [*findings, *exchanges(all_ranks)]
    return [*findings, exchange_of_two()]


def exchange_of_two() -> Finding:
    """Start two ranks with the launcher beside this Python, and tell what they found."""
    what = "exchange of 2 ranks"
    launcher = mpirun()
    if importlib.util.find_spec("horovod") is None:
        return Finding(what, "skipped: no Horovod")
    if launcher is None:
        return Finding(what, "skipped: no mpirun on PATH; run hpc-bnn doctor under srun")
    ranks = [launcher, "-n", "2", "--oversubscribe", "--bind-to", "none"]
    command = [*ranks, sys.executable, "-m", "mpi4py", "-m", "hpc_bnn", "doctor"]

    def run() -> str:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=COLLECTIVE_TIMEOUT_S,
            env={**AS_ROOT, **os.environ} if os.geteuid() == 0 else None,
        )
        lines = [line for line in done.stdout.splitlines() if "Horovod, world" in line]
        if not lines or not lines[0].startswith("ok"):
            raise RuntimeError(_shortened((done.stderr or done.stdout).strip()))
        return lines[0].partition("Horovod, world")[2].strip()

    return told(what, run, REMEDY)


def _shortened(text: str, limit: int = 600) -> str:
    """Return head and tail of a long message: launchers put the reason first, Python last."""
    return text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 2 :]}"
