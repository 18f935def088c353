"""Jobs of a test: submit a script, watch it, look at its ranks, wait for its end."""

import contextlib
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster import Cluster

LIMIT_S = 180.0  # of a wait; on a quiet machine a job takes about ten seconds
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",  # more ranks than cores
    "PYTHONPATH": os.pathsep.join(
        [str(Path(__file__).with_name("faults")), *filter(None, [os.environ.get("PYTHONPATH")])]
    ),
}


@dataclass(frozen=True)
class Job:
    """One job, that may be started several times."""

    cluster: Cluster
    number: str
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""

    def facts(self) -> dict[str, str]:
        """Return what Slurm knows: JobState, Restarts, ExitCode, NodeList, ..."""
        line = self.cluster.run("scontrol", "show", "job", "-o", self.number)
        return dict(word.partition("=")[::2] for word in line.split())

    def ended(self, limit_s: float = LIMIT_S) -> dict[str, str]:
        """Wait for the end and return the facts."""
        self.until(lambda: self.facts()["JobState"] in ENDED, "end", limit_s)
        return self.facts()

    def said(self, text: str, times: int = 1) -> None:
        """Wait until the log holds a text so many times."""
        self.until(lambda: self.text.count(text) >= times, f"say {text!r}", ended=True)

    def until(
        self, is_true: Callable[[], bool], what: str, limit_s: float = LIMIT_S, ended: bool = False
    ) -> None:
        """Wait; ``ended``: a job that is over will not do it any more."""
        limit = time.monotonic() + limit_s
        while not is_true():
            over = ended and self.facts()["JobState"] in ENDED
            if (over and not is_true()) or time.monotonic() > limit:
                raise AssertionError(f"job {self.number} did not {what}\n{self.report()}")
            time.sleep(0.25)  # each look starts a program of Slurm

    def report(self) -> str:
        return f"{self.facts()}\n{self.text[-6000:]}"

    def ranks(self) -> dict[int, int]:
        """Return the Python process of each world rank that runs now."""
        found = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit() and (rank := self._rank_of(folder)) is not None:
                found[rank] = int(folder.name)
        return found

    def _rank_of(self, process: Path) -> int | None:
        with contextlib.suppress(OSError):
            if (process / "exe").readlink().name.startswith("python"):
                words = (process / "environ").read_bytes().decode(errors="replace").split("\0")
                own = dict(word.partition("=")[::2] for word in words)
                # Another cluster on this machine may count its jobs alike.
                ours = own.get("SLURM_CONF") == self.cluster.environment["SLURM_CONF"]
                if ours and own.get("SLURM_JOB_ID") == self.number and "SLURM_PROCID" in own:
                    return int(own["SLURM_PROCID"])
        return None

    def signal_rank(self, rank: int, number: int) -> float:
        """Send a signal to one rank and return when."""
        os.kill(self.ranks()[rank], number)
        return time.monotonic()


def submit(
    cluster: Cluster, folder: Path, *words: str | Path, given: Mapping[str, str] | None = None
) -> Job:
    """Submit a job that works in ``folder``; ``words`` are those of sbatch."""
    log = folder / "job-%j.out"
    done = cluster.attempt(
        "sbatch", "--parsable", f"--chdir={folder}", f"--output={log}", *words,
        given={**ENVIRONMENT, **(given or {})},
    )  # fmt: skip
    if done.returncode:
        raise AssertionError(f"sbatch {words}: {done.stderr}")
    number = re.match(r"\d+", done.stdout)
    assert number is not None, done.stdout
    return Job(cluster, number[0], folder / f"job-{number[0]}.out")
