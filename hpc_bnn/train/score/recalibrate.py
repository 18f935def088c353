"""The recalibration of a run: fitted to its validation split once a checkpoint, kept in its folder.

``recalibration.json`` holds the factors (``hpc_bnn.verify.recalibration``) and what they belong to:
the step of the checkpoint and the number of weight samples.
"""

import json
import logging
from typing import Any

from hpc_bnn.config import SettingsError
from hpc_bnn.data.source import Source
from hpc_bnn.files import write_json
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.score.scoring import score
from hpc_bnn.train.score.trained import Trained
from hpc_bnn.verify.recalibration import RecalibratedTally, Recalibration, SpreadTally

log = logging.getLogger(__name__)


def require_series(source: Source) -> None:
    """Raise SettingsError unless a data set can be recalibrated."""
    if source.window is None:
        problem = f"evaluation.recalibrate = 'conformal': {source.name} is no time series"
        raise SettingsError([f"{problem}; expected lead times and channels; leave it out"])


def recalibration_of(trained: Trained, world: World, folder: RunFolder) -> Recalibration:
    """Collective over the world: return the recalibration of a run on series, from its folder where
    it was fitted already; else fit it to the validation split and write it there.

    Raises
    ------
    SettingsError
        If the run is on other data.
    ValueError
        If the split has too few windows, or the forecast no spread.
    """
    require_series(trained.parts.source)
    kept = kept_recalibration(trained, world, folder)
    if kept is not None:
        return kept
    recalibration = fit_recalibration(trained, world)

    def write() -> None:
        content = {"method": "conformal", **_belongs(trained), **recalibration.to_json()}
        write_json(folder.path / "recalibration.json", content)

    world.all_ranks.on_first(write, name="recalibration.json")
    return recalibration


def kept_recalibration(trained: Trained, world: World, folder: RunFolder) -> Recalibration | None:
    """Collective over the world: return the recalibration of this checkpoint that the folder holds;
    None where it was not fitted yet.
    """
    belongs = _belongs(trained)
    kept = world.all_ranks.on_first(lambda: _kept(folder, belongs), name="recalibration")
    return None if kept is None else Recalibration.of_json(kept)


def _belongs(trained: Trained) -> dict[str, Any]:
    return {"step": trained.step, "samples": trained.predict_samples, "split": "validation"}


def fit_recalibration(trained: Trained, world: World) -> Recalibration:
    """Collective over the world: fit the factors to forecasts of the validation split; the same on
    every rank and on any grid.
    """
    source, loss = trained.parts.source, trained.parts.loss
    tally = SpreadTally(source.output_shape)
    score(
        trained.parts.posterior,
        loss,
        source.validation,
        world,
        task=source.task,
        output_shape=source.output_shape,
        scale=source.scale,
        samples=trained.predict_samples,
        batch_size=trained.settings.train.batch_size,
        tally=tally,
    )
    recalibration = tally.recalibration()
    if world.is_first:
        factor = recalibration.factor
        log.info(
            "recalibrated on %d windows of the validation split: spreads times %.3g to %.3g",
            recalibration.examples,
            float(factor.min()),
            float(factor.max()),
        )
    return recalibration


def describe_recalibration(
    recalibration: Recalibration, tally: RecalibratedTally
) -> dict[str, Any]:
    """Return what ``evaluation.json`` holds of a recalibration whose scores it holds."""
    factor = recalibration.factor
    quantiles = {"least": factor.min(), "median": factor.median(), "most": factor.max()}
    return {
        "recalibration": {
            "method": "conformal",
            "split": "validation",
            "examples": recalibration.examples,
            "level": recalibration.level,
            "factor": {name: float(value) for name, value in quantiles.items()},
            "before": tally.before.result(),
        }
    }


def _kept(folder: RunFolder, belongs: dict[str, Any]) -> dict[str, Any] | None:
    """Return what the folder holds of this checkpoint and number of weight samples."""
    path = folder.path / "recalibration.json"
    if not path.is_file():
        return None
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content if all(content.get(key) == value for key, value in belongs.items()) else None
