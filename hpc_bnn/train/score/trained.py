"""A trained run, brought back from its folder to be scored or to forecast."""

import logging
from dataclasses import dataclass

from hpc_bnn.config import Settings
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.build import Parts, build, read_source
from hpc_bnn.train.run.checkpoint import CheckpointError
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.snapshots import Snapshots

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """Settings and parts of a run, with the parameters of its newest good checkpoint."""

    settings: Settings
    parts: Parts
    step: int

    @property
    def predict_samples(self) -> int:
        """Number of weight samples of a prediction."""
        return self.parts.posterior.prediction_samples(self.settings.posterior.predict_samples)


def load_trained(world: World, folder: RunFolder) -> Trained:
    """Collective over the world: read the run of a folder onto this world's devices.

    Raises
    ------
    FileNotFoundError
        If the folder holds no run.
    CheckpointError
        If it holds no usable checkpoint.
    """
    settings = world.all_ranks.on_first(folder.settings, name="settings")
    source = read_source(settings, world.all_ranks)
    parts = world.all_ranks.together(lambda: build(settings, source), name="building the model")
    parts.posterior.to(world.device)
    parts.loss.to(world.device)
    snapshots = Snapshots(settings, world, folder, parts, parts.optimizer(settings.train.lr))
    found = snapshots.restore()
    if found is None:
        raise CheckpointError(
            f"{folder.checkpoints}: no checkpoint to evaluate or forecast with; train first"
        )
    trained = Trained(settings, parts, found[1].step)
    wish = settings.posterior.predict_samples
    if trained.predict_samples < wish and world.is_first:
        log.info(
            "predicting with %d weight samples instead of posterior.predict_samples = %d: there "
            "are no more",
            trained.predict_samples,
            wish,
        )
    return trained
