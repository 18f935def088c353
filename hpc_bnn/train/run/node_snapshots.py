"""Snapshots of a run on every node, so that a fault loses the steps since the last of them, not
those since the last checkpoint (``train.snapshot_every``).

What is shared by all weight samples lies on every rank, so one rank a node writes all of it. Rows
of members lie along the sample axis; the first rank of each axis gathers them, so there the nodes
of these ranks write. So a run goes on from its last snapshot

    without members        if one node is left, whichever,
    with members           if the node of a first rank is left: of one of D sample axes.

Else it goes on from the last checkpoint.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from hpc_bnn.config import Settings
from hpc_bnn.parallel.launcher import node_name, split_by_node
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.checkpoint import Checkpoint, available
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.snapshot_writer import (
    SnapshotWriter,
    computed_steps,
    require_private,
    snapshot_folder,
)

log = logging.getLogger(__name__)


class NodeSnapshots:
    """The snapshots of one run; without ``train.snapshot_every`` there are none.

    Parameters
    ----------
    gather
        Collective over the sample axis: returns the checkpoint of now, after so many steps; whole
        on the first rank of each sample axis, or everywhere where there are no members.
    sync
        Makes the metrics of the steps so far durable; called in the thread that writes.
    has_members
        Whether parameters have rows of their own for each weight sample.

    Attributes
    ----------
    skipped
        How often a snapshot was due and a node had not finished writing the one before.
    """

    def __init__(
        self,
        settings: Settings,
        world: World,
        folder: RunFolder,
        gather: Callable[[int], Checkpoint],
        *,
        sync: Callable[[], None],
        has_members: bool,
    ) -> None:
        self._every = settings.train.snapshot_every
        self._world, self._folder = world, folder
        self._gather, self._sync, self._has_members = gather, sync, has_members
        self._base = snapshot_folder(settings.train.snapshot_dir)
        self._writer: SnapshotWriter | None = None
        self._last = self.skipped = 0

    @property
    def are_wanted(self) -> bool:
        """Whether the settings ask for snapshots."""
        return self._every > 0

    def files(self) -> list[Path]:
        """Collective over the world: return the snapshots that this rank is to offer, oldest first:
        those of its node, on the first rank there, unless somebody else could have put them there.
        """
        place = self._place()
        if not self._every or self._world.node_rank:
            return []
        try:
            require_private(self._base)
        except FileNotFoundError:
            return []
        except OSError as error:
            log.warning("the snapshots of this node are not read: %s", error)
            return []
        return available(place)

    def computed(self) -> int:
        """Collective over the world: return how many steps the last process computed, as far as any
        node knows; 0: none does.
        """
        place = self._place()
        counts = self._world.all_ranks.gather(
            computed_steps(place) if self._every and not self._world.node_rank else 0,
            name="computed steps",
        )
        return max(counts)

    def begin(self, first: int) -> None:
        """Collective over the world: get ready to write, after ``first`` steps."""
        self._last = first
        if not self._every:
            return
        place, writes = self._place(), self._writes()
        if writes:
            self._writer = SnapshotWriter(place)
            self._writer.open()
            self._writer.count(first)
        log.info(
            "snapshots every %d steps in %s on %s",
            self._every,
            self._base,
            "each node" if not self._has_members else "the node of each first rank",
        )

    @property
    def is_busy(self) -> bool:
        """Whether this rank is still writing."""
        return self._writer is not None and self._writer.is_busy

    def after(self, done: int, *, is_busy: bool, is_saved: bool) -> None:
        """Collective over the sample axis where there are members: note a step, and take a snapshot
        if one is due.

        is_busy: whether any rank is writing, so that all decide alike. is_saved: a checkpoint was
        written after this step, which is as good.
        """
        if not self._every:
            return
        if self._writer is not None:
            self._writer.count(done)
        if is_saved:
            self._last = done
        elif done - self._last >= self._every:
            if is_busy:
                self.skipped += 1
                return
            self._last = done
            if self._has_members:
                state = self._gather(done)
                if self._writer is not None:
                    self._writer.take(state, self._sync)
            elif self._writer is not None:
                self._writer.take(self._gather(done), self._sync)

    def close(self, *, is_over: bool) -> None:
        """End writing; ``is_over``: the run ended in good order, and its checkpoint is newer."""
        if self._writer is None:
            return
        self._writer.close(remove=is_over)
        if self._world.is_first and (self._writer.written or self.skipped):
            log.info(
                "%d snapshots, the last one in %.3g s beside the steps; %d were due while the one "
                "before was being written, and left out",
                self._writer.written,
                self._writer.seconds,
                self.skipped,
            )
        self._writer = None

    def _place(self) -> Path:
        """Collective over the world: return the folder of this run on every node: of the same run
        in the same folder only.
        """
        if not self._every:
            return self._base

        def name() -> str:
            text = f"{self._folder.identity()} {self._folder.path.resolve()}"
            return hashlib.sha256(text.encode()).hexdigest()[:16]

        return self._base / self._world.all_ranks.on_first(name, name="run id")

    def _writes(self) -> bool:
        """Collective over the world: tell whether this rank is the first of its node that will hold
        a whole state.
        """
        is_whole = not self._has_members or self._world.grid.sample_rank == 0
        node, _ = split_by_node(self._world.all_ranks, node_name(os.environ))
        whole = node.gather(is_whole, name="snapshots")
        return is_whole and whole.index(True) == node.rank
