"""A trained run, brought back from its folder to be scored or to forecast."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from torch import Tensor

from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.config import Settings
from hpc_bnn.data.new_inputs import physical_inputs
from hpc_bnn.data.source import Scale
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.build import Parts, build, read_source
from hpc_bnn.train.run.checkpoint import BEST, CheckpointError, OtherModelError
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.snapshots import Snapshots
from hpc_bnn.train.score.away import changed_by, is_away, kept_facts, settings_with
from hpc_bnn.train.score.prediction import Prediction, predict_inputs

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

    @property
    def posterior(self) -> Posterior:
        """The trained posterior; ``posterior.module`` is its network."""
        return self.parts.posterior

    @property
    def scale(self) -> Scale | None:
        """The way from normalised values to the units of a series."""
        return self.parts.source.scale

    def predict(
        self, x: Tensor, *, samples: int | None = None, times: Sequence[datetime] = ()
    ) -> Prediction:
        """Return what the run predicts for ``x`` in the units of its data, with the given number of
        weight samples, by default those of the settings.

        Parameters
        ----------
        x
            Of a series: the rows before what is predicted, (B, H, C) or (H, C). Images: (B, C, H,
            W), uint8 or values from 0 to 1. Else inputs (B, ...) as the network takes them.
        times
            Of a series with a calendar: those of the P rows to predict, on its clock.

        Raises
        ------
        ValueError
            If there are fewer weight samples, ``x`` is of another shape, or the run forecasts
            fields: these start from files (``hpc-bnn forecast``).
        """
        device = next(self.posterior.parameters()).device
        calendar = self.settings.data.options.get("calendar", ())
        inputs = physical_inputs(self.parts.source, x, times, calendar)
        own = range(self.predict_samples if samples is None else samples)
        return predict_inputs(self.parts, inputs, own, positions=range(len(inputs)), device=device)


def load_trained(
    world: World,
    folder: RunFolder,
    *,
    reads: bool = True,
    checkpoint: str = "",
    overrides: Sequence[str] = (),
) -> Trained:
    """Collective over the world: read the run of a folder onto this world's devices.

    checkpoint: ``last``, ``best`` or the number of its steps; "": the best where the run keeps it
    (``train.keep_best``), else the last. reads: also the examples of its data set; else only what
    the run kept of that, where it kept something (``RunFolder.source``). overrides: key=value, such
    as another data.path (``away``).

    Raises
    ------
    FileNotFoundError
        If the folder holds no run.
    CheckpointError
        If it holds no usable checkpoint.
    """
    settings = world.all_ranks.on_first(lambda: settings_with(folder, overrides), name="settings")
    kept = None if reads else world.all_ranks.on_first(folder.source, name="data.json")
    if kept is None:
        away = world.all_ranks.on_first(lambda: is_away(folder, settings), name="settings")
        facts = kept_facts(world, folder) if away else None
        kept = read_source(settings, world.all_ranks, kept=facts)
    source = kept
    parts = world.all_ranks.together(lambda: build(settings, source), name="building the model")
    parts.posterior.to(world.device)
    parts.loss.to(world.device)
    snapshots = Snapshots(settings, world, folder, parts, parts.optimizer(settings.train.lr))
    if not checkpoint:
        best = settings.train.keep_best and (folder.checkpoints / BEST).is_file()
        checkpoint = "best" if world.all_ranks.broadcast(best, name="checkpoint") else "last"
    try:
        found = snapshots.restore(which=checkpoint)
    except OtherModelError as error:  # on every rank
        changed = world.all_ranks.on_first(lambda: changed_by(folder, settings), name="settings")
        if not changed:
            raise
        raise OtherModelError(f"{error}; it was asked for with {changed}") from error
    if found is None:
        raise CheckpointError(
            f"{folder.checkpoints}: no checkpoint to evaluate or predict with; train first"
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
