"""What a run saves and how it comes back: the collective side of checkpoints."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.config import Settings, dump_settings
from hpc_bnn.config.yaml_text import parse
from hpc_bnn.losses import Loss
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run import checkpoint
from hpc_bnn.train.run.build import Parts, build
from hpc_bnn.train.run.checkpoint import Checkpoint, CheckpointError
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.handover import gathered, require_finite, take
from hpc_bnn.train.run.newest import led_by, newest
from hpc_bnn.train.run.resumable import require_same_run
from hpc_bnn.train.run.versions import versions
from hpc_bnn.train.step.ema import EMA

log = logging.getLogger(__name__)


class Snapshots:
    """Saves the state of a run into its folder and restores it."""

    def __init__(
        self,
        settings: Settings,
        world: World,
        folder: RunFolder,
        parts: Parts,
        optimizer: torch.optim.Optimizer,
        ema: EMA | None = None,
    ) -> None:
        self._ema = ema
        self._settings, self._world, self._folder = settings, world, folder
        self._parts, self._optimizer = parts, optimizer
        # At the start: a checkout may change while its code runs.
        self._versions = versions() if world.is_first else {}

    def save(self, step: int, *, steps_per_epoch: int, best: bool = False) -> int:
        """Collective: write a checkpoint on world rank 0 and return its bytes; a failure ends every
        rank.

        best: that of the best validation, which stays beside the newest ones.
        """
        # One sample axis has all of it.
        state = (
            None
            if self._world.grid.data_rank
            else self.gathered(step, steps_per_epoch=steps_per_epoch)
        )

        def write() -> int:
            assert state is not None
            require_finite(self._parts.posterior, state)
            folder, own = self._folder.checkpoints, self._folder.require_own
            if best:
                path = checkpoint.write(folder / checkpoint.BEST, state, require_own=own)
            else:
                keep = self._settings.train.keep_checkpoints
                path = checkpoint.save(folder, state, keep=keep, require_own=own)
            return path.stat().st_size

        return self._world.all_ranks.on_first(write, name="checkpoint")

    def gathered(self, step: int, *, steps_per_epoch: int) -> Checkpoint:
        """Collective over the sample axis where there are members: return the checkpoint of now,
        after so many steps.
        """
        epoch, cursor = divmod(step, steps_per_epoch)
        return gathered(
            self._world,
            self._parts.posterior,
            self._parts.loss,
            self._optimizer,
            self._ema,
            step=step,
            position={"epoch": epoch, "cursor": cursor, **self._order()},
            settings=dump_settings(self._settings),
            versions=self._versions,
        )

    def go_on(self, others: Sequence[Path] = ()) -> tuple[Path, Checkpoint] | None:
        """Collective: restore the newest good state, with that of the optimizer; return its path
        and its outline, None where there is none.

        others: further files of this rank, beside the checkpoints of the run folder.

        Raises
        ------
        CheckpointError
            If there are checkpoints and all states are damaged, the newest is of another run, or
            the examples would come in another order.
        """
        ranks, first = self._world.all_ranks, self._world.is_first
        own = checkpoint.available(self._folder.checkpoints) if first else []
        owner, found = newest(ranks, [*others, *own])

        def read() -> tuple[Path, Checkpoint] | None:
            if owner < 0 and own:
                raise CheckpointError(
                    f"{self._folder.checkpoints}: all {len(own)} checkpoints are damaged; restore "
                    "one or start in another run folder"
                )
            if found is not None:
                self._require_same_order(*found)
                self._require_same_run(*found, self._settings)
            return found

        whole = (self._parts.posterior, self._parts.loss)
        world = led_by(self._world, owner)
        return take(world, read, lambda _: whole, self._optimizer, self._ema)

    def restore(self, *, which: str = "last") -> tuple[Path, Checkpoint] | None:
        """Collective: world rank 0 finds a checkpoint, every rank receives its weights, or their
        moving averages where it holds some; return its path and its outline, None where there is
        none.

        which: ``last``, the newest good one; ``best``; or the number of its steps.

        Raises
        ------
        CheckpointError
            If there is no such checkpoint, or it is damaged or of another run.
        """

        def read() -> tuple[Path, Checkpoint] | None:
            found = checkpoint.chosen(self._folder.checkpoints, which, moments=False)
            if found is not None:  # the run's own settings: these may name other data
                self._require_same_run(*found, self._folder.settings())
            return found

        whole = (self._parts.posterior, self._parts.loss)
        return take(self._world, read, lambda _: whole)

    def start_from(self, given: Path) -> Path:
        """Collective: take the weights, or their moving averages where there are some, and nothing
        else, from a checkpoint, or from the newest good one of another run, which may be of another
        method; return its path.

        Raises
        ------
        CheckpointError
            If there is none, or it is of another network or of members that have no place here, or
            ``hb.save`` wrote it, which knows no settings.
        """

        def read() -> tuple[Path, Checkpoint]:
            if given.is_file():
                state = checkpoint.load(given, moments=False)
                if not state.settings:
                    raise CheckpointError(
                        f"{given}: hb.save wrote it, so it does not say of which method it is: "
                        "expected a checkpoint of hpc-bnn train; a script goes on from this one "
                        "with hb.load"
                    )
                return given, state
            found = checkpoint.newest_good(RunFolder(given).checkpoints, moments=False)
            if found is None:
                raise CheckpointError(
                    f"train.start_from = {given}: expected a checkpoint file, or a run folder that "
                    "holds one"
                )
            return found

        others: list[tuple[Posterior, Loss]] = []

        def as_saved(state: Checkpoint) -> tuple[Posterior, Loss]:
            others.append(self._as_saved(state))
            return others[0]

        taken = take(self._world, read, as_saved)
        assert taken is not None
        path, (posterior, loss) = taken[0], others[0]

        def start() -> None:
            try:
                self._parts.posterior.start_from(posterior)
                if {*loss.state_dict()} == {*self._parts.loss.state_dict()}:
                    self._parts.loss.load_state_dict(loss.state_dict())
            except (ValueError, RuntimeError) as error:
                raise CheckpointError(
                    f"{path}: checkpoint of another model: posterior: {error}"
                ) from error

        self._world.all_ranks.together(start, name="starting from a checkpoint")
        return path

    def _as_saved(self, state: Checkpoint) -> tuple[Posterior, Loss]:
        """Return what a checkpoint is of, with the rows that are held here.

        Its network is made as this run makes its own: a file of somebody else must not choose which
        code runs here (``model.name = package.module:Class``).
        """
        settings = Settings.model_validate(parse(state.settings))
        settings = settings.model_copy(update={"model": self._settings.model})
        parts, here = build(settings, self._parts.source), self._parts.posterior
        if parts.posterior.members == here.members:
            parts.posterior.hold(here.own_samples)
        parts.posterior.to(self._world.device)
        parts.loss.to(self._world.device)
        return parts.posterior, parts.loss

    def _order(self) -> dict[str, int]:
        """Return what the order of the examples follows from."""
        return {
            "seed": self._settings.seed,
            "batch_size": self._settings.train.batch_size,
            "examples": len(self._parts.source.train),
        }

    def _require_same_run(self, path: Path, state: Checkpoint, run: Settings) -> None:
        config = self._folder.config
        for key, (old, new) in require_same_run(path, state, run, config).items():
            log.warning(
                "%s: %s = %r there, %r in %s: taken for the same files in another place",
                *(path, key, old, new, config),
            )

    def _require_same_order(self, path: Path, state: Checkpoint) -> None:
        before = state.position
        wrong = [
            f"{name} = {before[name]} then, {now} now"
            for name, now in self._order().items()
            if before.get(name, now) != now
        ]
        if wrong:
            raise CheckpointError(
                f"{path}: the order of the examples is another since this checkpoint: "
                f"{', '.join(wrong)}; some examples would be seen twice and some never: restore "
                "the data and settings it was made with, or start in another run folder"
            )
