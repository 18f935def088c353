"""What a run saves and how it comes back: the collective side of checkpoints."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from hpc_bnn.config import Settings, dump_settings
from hpc_bnn.config.yaml_text import parse
from hpc_bnn.parallel.guards import agree
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run import checkpoint
from hpc_bnn.train.run.build import Parts, build
from hpc_bnn.train.run.checkpoint import Checkpoint, CheckpointError, digest
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.state import (
    gather_ema,
    gather_optimizer,
    gather_posterior,
    outline,
    restore,
    restore_ema,
)
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

    def save(self, step: int, *, steps_per_epoch: int) -> None:
        """Collective: write a checkpoint on world rank 0; a failure ends every rank."""

        posterior = gather_posterior(self._parts.posterior, self._world.sample_axis)
        moments = gather_optimizer(self._optimizer, self._parts.posterior, self._world.sample_axis)
        ema = gather_ema(self._ema, self._parts.posterior, self._world.sample_axis)

        def write() -> Path:
            self._require_finite(step, posterior)
            epoch, cursor = divmod(step, steps_per_epoch)
            state = Checkpoint(
                step=step,
                position={"epoch": epoch, "cursor": cursor, **self._order()},
                posterior=posterior,
                loss=self._parts.loss.state_dict(),
                optimizer=moments,
                settings=dump_settings(self._settings),
                versions=self._versions,
                per_sample=list(self._parts.posterior.per_sample()),
                ema=ema,
            )
            return checkpoint.save(
                self._folder.checkpoints,
                state,
                keep=self._settings.train.keep_checkpoints,
                require_own=self._folder.require_own,
            )

        self._world.all_ranks.on_first(write, name="checkpoint")

    def restore(self, *, to_train: bool = False) -> tuple[Path, int] | None:
        """Collective: world rank 0 finds the newest good checkpoint, every rank receives and
        restores it; return its path and step, None where there is no checkpoint.

        to_train: with the optimizer's state; refuse a checkpoint after which the examples would
            come in another order. Else moving averages, where it holds some, take the place of the
            weights.
        """

        def read() -> tuple[Path, Checkpoint] | None:
            found = checkpoint.newest_good(self._folder.checkpoints)
            if found is not None and to_train:
                self._require_same_order(*found)
            return found

        taken = self._take(read, self._optimizer if to_train else None, lambda _: self._parts)
        return taken and taken[:2]

    def start_from(self, given: Path) -> Path:
        """Collective: take the weights, or their moving averages where there are some, and nothing
        else, from a checkpoint, or from the newest good one of another run, which may be of another
        method; return its path.

        Raises
        ------
        CheckpointError
            If there is none, or it is of another network or of members that have no place here.
        """

        def read() -> tuple[Path, Checkpoint]:
            if given.is_file():
                return given, checkpoint.load(given)
            found = checkpoint.newest_good(RunFolder(given).checkpoints)
            if found is None:
                raise CheckpointError(
                    f"train.start_from = {given}: expected a checkpoint file, or a run folder that "
                    "holds one"
                )
            return found

        taken = self._take(read, None, self._as_saved)
        assert taken is not None
        path, _, other = taken

        def start() -> None:
            try:
                self._parts.posterior.start_from(other.posterior)
                if {*other.loss.state_dict()} == {*self._parts.loss.state_dict()}:
                    self._parts.loss.load_state_dict(other.loss.state_dict())
            except (ValueError, RuntimeError) as error:
                raise CheckpointError(
                    f"{path}: checkpoint of another model: posterior: {error}"
                ) from error

        self._world.all_ranks.together(start, name="starting from a checkpoint")
        return path

    def _as_saved(self, state: Checkpoint) -> Parts:
        """Return the parts that a checkpoint is of, with the rows that are held here."""
        settings = Settings.model_validate(parse(state.settings))
        parts, here = build(settings, self._parts.source), self._parts.posterior
        if parts.posterior.members == here.members:
            parts.posterior.hold(here.own_samples)
        parts.posterior.to(self._world.device)
        parts.loss.to(self._world.device)
        return parts

    def _take(
        self,
        read: Callable[[], tuple[Path, Checkpoint] | None],
        optimizer: torch.optim.Optimizer | None,
        parts_of: Callable[[Checkpoint], Parts],
    ) -> tuple[Path, int, Parts] | None:
        """Collective: restore what ``read`` returns on world rank 0, the only one that reads, into
        ``parts_of`` its outline, and return these, too; None: not the optimizer's state.
        """
        whole: list[Checkpoint] = []

        def read_outline() -> tuple[Path, Checkpoint] | None:
            found = read()
            if found is None:
                return None
            path, state = found
            whole.append(state if optimizer else replace(state, optimizer={}))
            return path, outline(whole[0])

        found = self._world.all_ranks.on_first(read_outline, name="reading the checkpoint")
        if found is None:
            return None
        path, outlined = found
        parts = self._world.all_ranks.together(lambda: parts_of(outlined), name="parts")
        posterior, loss = parts.posterior, parts.loss
        state = whole[0] if whole else outlined
        restore(path, state, posterior, loss, optimizer, self._world.all_ranks)
        ema = self._ema if optimizer else None
        if state.ema and (ema or not optimizer):
            restore_ema(path, state, posterior, loss, ema, self._world.all_ranks)
        if state.ema and not optimizer:
            log.info(
                "the weights are moving averages of %d steps (train.ema = %g)",
                state.ema["steps"],
                state.ema["decay"],
            )
        restored = {"posterior": posterior.state_dict(), "loss": loss.state_dict()}
        if optimizer is not None:
            restored["optimizer"] = optimizer.state_dict()
        if ema is not None:
            restored["ema"] = ema.weights
        # Where members are spread over the sample axis, the same ones are on a data axis.
        spread = posterior.own_samples != range(posterior.members or 0)
        ranks = self._world.data_axis if spread else self._world.all_ranks
        agree(ranks, {"checkpoint": digest(restored)}, name="restored state")
        return path, outlined.step, parts

    def _order(self) -> dict[str, int]:
        """Return what the order of the examples follows from."""
        return {
            "seed": self._settings.seed,
            "batch_size": self._settings.train.batch_size,
            "examples": len(self._parts.source.train),
        }

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

    def _require_finite(self, step: int, posterior: Mapping[str, Tensor]) -> None:
        for name, _ in self._parts.posterior.named_parameters():
            if not torch.isfinite(posterior[name]).all():
                raise FloatingPointError(
                    f"step {step}: parameter {name} is not finite; the checkpoint was not written "
                    "and the one before is kept"
                )
