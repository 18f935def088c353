"""A private Slurm on this machine: real daemons in a folder of their own, all on 127.0.0.1.

Each node is a slurmd in namespaces of its own (host name, mounts, processes), so MPI, the job
scripts and logs see several machines, and a node that is ended takes all its processes with it.
Cores, memory and GPUs are what ``Shape`` says, whatever this machine has. There is no accounting
and no control of CPUs and memory: a job may ask for what it likes and gets what this machine has.

The daemons are children of this process and end with it, however it ends.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from configuration import Shape, configure

NEEDED = ("slurmctld", "slurmd", "srun", "sbatch", "munged", "unshare", "setpriv")
SBIN = ("/usr/sbin", "/sbin")  # often not on a plain user's PATH
START_S = 60.0
# A controller that is busy says so of a command that may have been obeyed, or not.
BUSY = ("Socket timed out", "Unable to contact slurm controller", "Zero Bytes were transmitted")
TRIES = 6
END_S = 10.0
# What launchers around this process say must not reach the jobs.
LEFT_OUT = ("SLURM_", "SBATCH_", "SRUN_", "PMI", "OMPI_", "PRTE_", "MPIEXEC_", "HOROVOD_")


class Unavailable(Exception):
    """This machine cannot run a private Slurm; the message says why."""


@dataclass
class Cluster:
    """A running Slurm, from ``start`` to ``stop``."""

    folder: Path
    shape: Shape
    _daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which Slurm's commands find this cluster."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(LEFT_OUT)}
        return {**kept, "PATH": _path(), "SLURM_CONF": str(self._conf)}

    def start(self) -> None:
        """Start all daemons and wait until every node is idle.

        Raises
        ------
        Unavailable
            If programs are missing or namespaces are refused.
        RuntimeError
            If a daemon does not come up, with what it said.
        """
        missing = [name for name in NEEDED if shutil.which(name, path=_path()) is None]
        if missing:
            raise Unavailable(f"not installed: {', '.join(missing)}")
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End every daemon, and with the nodes all their jobs."""
        for name, daemon in self._daemons.items():  # the nodes first, at once: jobs end with them
            daemon.kill() if name in self.nodes else daemon.terminate()
        for daemon in self._daemons.values():
            try:
                daemon.wait(END_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()

    @property
    def nodes(self) -> list[str]:
        return self.shape.names

    def run(self, *command: str | Path) -> str:
        """Run one of Slurm's commands to its end and return what it printed; again where the
        controller is busy, so it must be one that may be obeyed twice.
        """
        for _ in range(TRIES):
            done = self.attempt(*command)
            if done.returncode == 0 or not any(text in done.stderr for text in BUSY):
                break
            time.sleep(1.0)
        if done.returncode:
            raise AssertionError(f"{command}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def attempt(
        self,
        *command: str | Path,
        given: Mapping[str, str] | None = None,
        limit_s: float = START_S,
    ) -> subprocess.CompletedProcess[str]:
        """Run one of Slurm's commands, with further variables, and return how it ended."""
        return subprocess.run(
            [str(word) for word in command],
            env={**self.environment, **(given or {})},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )

    def lose_node(self, name: str) -> None:
        """End a node with all of its processes, as a power cut does."""
        self._daemons[name].kill()
        self._daemons.pop(name).wait(END_S)

    def start_node(self, name: str) -> None:
        """Start the daemon of a node, in namespaces of its own."""
        mounts = (
            "mount -t tmpfs -o mode=1777 shm /dev/shm; "
            f"mount --bind '{self.folder}/hosts' /etc/hosts"
        )
        # No exec: the shell is process 1 of the node and takes in what jobs leave behind.
        script = f"hostname {name}; {mounts}; slurmd -D -f '{self._conf}' -N {name}; exit"
        self._spawn(name, *_separate(), "sh", "-ec", script)

    @property
    def _conf(self) -> Path:
        return self.folder / "slurm.conf"

    def _start(self) -> None:
        tried = subprocess.run(
            [*_separate(), "sh", "-ec", "hostname n0; mount -t tmpfs shm /dev/shm"],
            capture_output=True,
            text=True,
            check=False,
        )
        if tried.returncode:
            raise Unavailable(f"namespaces are refused: {tried.stderr.strip()}")
        for name in ("state", "log", "run", "munge", "gpu", *(f"node/{n}" for n in self.nodes)):
            (self.folder / name).mkdir(parents=True, exist_ok=True, mode=0o755)
        configure(self.folder, self.shape)
        munge = self.folder / "munge"
        self._spawn(
            "munged", "munged", "--foreground", "--force", f"--key-file={munge}/key",
            f"--socket={munge}/socket", f"--pid-file={munge}/pid", f"--seed-file={munge}/seed",
        )  # fmt: skip
        self._until("munged", (munge / "socket").exists)
        self._spawn("slurmctld", "slurmctld", "-D", "-c", "-f", self._conf)
        for name in self.nodes:
            self.start_node(name)
        self._until("the nodes", self._all_idle)

    def _spawn(self, name: str, *command: str | Path) -> None:
        """Start a daemon that ends when this process does."""
        with (self.folder / "log" / f"{name}.out").open("ab") as out:
            self._daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *map(str, command)],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,  # Ctrl-C is for pytest, which then stops the cluster
            )  # fmt: skip

    def _all_idle(self) -> bool:
        states = self.attempt("sinfo", "-h", "-N", "-p", self.shape.partitions[0], "-o", "%T")
        return states.stdout.split() == ["idle"] * self.shape.nodes

    def _until(self, what: str, is_up: Callable[[], bool]) -> None:
        limit = time.monotonic() + START_S
        while not is_up():
            ended = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            if ended or time.monotonic() > limit:
                said = self._last_words()
                raise RuntimeError(f"{what} did not come up; ended: {ended}\n{said}")
            time.sleep(0.05)

    def _last_words(self) -> str:
        files = sorted((self.folder / "log").iterdir())
        return "\n".join(f"{f.name}: {f.read_text(errors='replace')[-400:]}" for f in files)


def _path() -> str:
    return ":".join([os.environ.get("PATH", ""), *SBIN])


def _separate() -> Sequence[str]:
    """Return the command that starts another in namespaces that end with it."""
    own = ["--uts", "--mount", "--pid", "--mount-proc", "--propagation", "private"]
    user = [] if os.geteuid() == 0 else ["--map-current-user", "--keep-caps"]
    return ["unshare", *user, *own, "--fork", "--kill-child"]
