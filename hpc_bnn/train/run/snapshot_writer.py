"""Checkpoints into the memory of a node, beside the steps: the copy is taken between two steps, the
file is written by a thread, one at a time.

    DIR/RUN/step-XXXXXXXX.pt   the newest KEEP, as whole and checksummed as any checkpoint
    DIR/RUN/steps              how many steps were computed, 8 bytes, written after each

DIR is this user's own (0700). What a process that dies leaves there is what the next one goes on
from; a run that ends in good order removes it.
"""

import contextlib
import logging
import mmap
import os
import shutil
import stat
import struct
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from hpc_bnn.train.run import checkpoint
from hpc_bnn.train.run.checkpoint import Checkpoint, CheckpointError
from hpc_bnn.train.run.state import mapped

log = logging.getLogger(__name__)

KEEP = 2
STEPS = "steps"
_COUNT = struct.Struct("<q")


def snapshot_folder(given: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Return ``train.snapshot_dir``; where that is empty, a folder of this user and job in memory.

    Job scripts name and remove the same one.
    """
    if given:
        return Path(given)
    names = ("hpc_bnn", environment.get("USER") or str(os.getuid()))
    job = environment.get("SLURM_JOB_ID", "")
    return Path("/dev/shm") / "-".join([*names, *([job] if job else [])])


def make_private(folder: Path) -> None:
    """Make a folder that only this user can enter.

    Raises
    ------
    OSError
        If that cannot be, or the folder is somebody else's, or open to others.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    require_private(folder)


def require_private(folder: Path) -> None:
    """Check that a folder is one that only this user can enter.

    Raises
    ------
    OSError
        If it is somebody else's, open to others, or not there.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise OSError(
            f"{folder}: expected a folder of this user with mode 0700, whose checkpoints nobody "
            "else can put there: chmod 700, remove it, or set another train.snapshot_dir"
        )


def computed_steps(folder: Path) -> int:
    """Return how many steps the last process computed, as far as this node knows; 0: nothing."""
    try:
        return int(_COUNT.unpack((folder / STEPS).read_bytes()[: _COUNT.size])[0])
    except (OSError, struct.error):
        return 0


class SnapshotWriter:
    """Writes snapshots of one run on one node.

    Attributes
    ----------
    written, seconds
        Snapshots so far, and what writing the last one took in the thread.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._host: list[Tensor] = []  # of the copy, used again for each
        self._thread: threading.Thread | None = None
        self._is_broken = False
        self._steps: mmap.mmap | None = None
        self.written, self.seconds = 0, 0.0

    @property
    def is_busy(self) -> bool:
        """Whether the last snapshot is still being written."""
        return self._thread is not None and self._thread.is_alive()

    def open(self) -> None:
        """Make the folder; where that fails, a warning says so and nothing is written."""
        try:
            make_private(self._folder.parent)
            self._folder.mkdir(mode=0o700, exist_ok=True)
            for leftover in self._folder.glob(".*.partial"):
                leftover.unlink(missing_ok=True)
            with (self._folder / STEPS).open("w+b") as file:
                file.write(_COUNT.pack(0))
                file.flush()
                self._steps = mmap.mmap(file.fileno(), _COUNT.size)
        except OSError as error:
            self._give_up(str(error))

    def count(self, steps: int) -> None:
        """Note how many steps were computed: a number in memory that outlives the process."""
        if self._steps is not None:
            _COUNT.pack_into(self._steps, 0, steps)

    def take(self, state: Checkpoint, first: Callable[[], None] = lambda: None) -> None:
        """Copy ``state`` and begin to write it; not to be called while ``is_busy``.

        first: what the thread does before.
        """
        if self._is_broken:
            return
        copy = self._copied(state)
        # Not a daemon: Python waits for the file at its end.
        self._thread = threading.Thread(target=self._write, args=(copy, first), name="snapshot")
        self._thread.start()

    def close(self, *, remove: bool) -> None:
        """Wait for the last file; ``remove``: nobody will go on from here."""
        if self._thread is not None:
            self._thread.join()
        if self._steps is not None:
            self._steps.close()
            self._steps = None
        if remove:
            shutil.rmtree(self._folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # other runs of this job have theirs there
                self._folder.parent.rmdir()

    def _copied(self, state: Checkpoint) -> Checkpoint:
        place = 0

        def copied(tensor: Tensor) -> Tensor:
            nonlocal place
            tensor = tensor.detach()
            if place == len(self._host):
                self._host.append(_host_like(tensor))
            elif self._host[place].shape != tensor.shape or self._host[place].dtype != tensor.dtype:
                self._host[place] = _host_like(tensor)
            own = self._host[place]
            own.copy_(tensor)
            place += 1
            return own

        with torch.no_grad():
            return Checkpoint(
                **{name: mapped(value, copied) for name, value in vars(state).items()}
            )

    def _write(self, state: Checkpoint, first: Callable[[], None]) -> None:
        began = time.perf_counter()
        try:
            first()
            checkpoint.save(self._folder, state, keep=KEEP)
        except (CheckpointError, OSError) as error:
            self._give_up(str(error))
            return
        self.seconds = time.perf_counter() - began
        self.written += 1

    def _give_up(self, why: str) -> None:
        """A full memory must not end a run that is well."""
        self._is_broken = True
        log.warning("no snapshots on this node from here on, but checkpoints: %s", why)


def _host_like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
