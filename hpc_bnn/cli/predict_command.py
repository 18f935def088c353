"""``hpc-bnn predict``: what a trained run says of data that it has never seen."""

import argparse

from hpc_bnn.data.new_inputs import Asked, new_inputs
from hpc_bnn.data.source import Source
from hpc_bnn.group import Group
from hpc_bnn.parallel.world import World, start
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.score.predict import output_paths, predict, write_prediction
from hpc_bnn.train.score.prediction import SeriesPrediction
from hpc_bnn.train.score.recalibrate import (
    kept_recalibration,
    recalibration_of,
)
from hpc_bnn.train.score.trained import Trained, load_trained


def predict_command(options: argparse.Namespace, all_ranks: Group) -> tuple[list[str], int]:
    """Collective: predict into files and return lines of text and the exit status."""
    folder = RunFolder(options.run_folder)
    settings = all_ranks.on_first(folder.settings, name="settings")
    world = start(all_ranks, mode="data", device=settings.train.device)
    trained = load_trained(
        world,
        folder,
        reads=False,
        checkpoint=options.checkpoint,
        overrides=options.overrides,
    )
    source = trained.parts.source
    if source.fields is not None:
        return _fields(options, trained, world), 0
    _require_usable(options, source)
    settings = trained.settings
    asked = Asked(options.input, options.start, options.resize)

    paths = all_ranks.on_first(
        lambda: output_paths(options.output, task=source.task), name="output"
    )
    inputs = all_ranks.together(
        lambda: new_inputs(settings.data.name, source, asked, settings.data.options), name="input"
    )
    recalibration = None
    if options.calibrated or settings.evaluation.recalibrate != "none":
        recalibration = kept_recalibration(trained, world, folder)
        if recalibration is None:  # fitted to the validation split, which is read for it, once
            recalibration = recalibration_of(
                load_trained(world, folder, checkpoint=options.checkpoint), world, folder
            )
    samples = options.samples or trained.predict_samples
    prediction = predict(trained, world, inputs, samples=samples)

    def write() -> None:
        assert prediction is not None
        if recalibration is not None and isinstance(prediction, SeriesPrediction):
            write_prediction(trained, inputs, prediction.recalibrated(recalibration), paths)
            return
        write_prediction(trained, inputs, prediction, paths)

    all_ranks.on_first(write, name="output")
    what = f"{samples} weight samples after step {trained.step}"
    if inputs.times:
        horizon = source.output_shape[0]
        first, last = inputs.times[0][-horizon], inputs.times[0][-1]
        what = f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M}, {what}"
        what += "" if recalibration is None else ", spread recalibrated on validation"
    else:
        what = f"{len(inputs.names)} images, {what}"
    return [f"{', '.join(map(str, paths))}: {what}"], 0


def _require_usable(options: argparse.Namespace, source: Source) -> None:
    """Raise ValueError where an option is for other data."""
    if options.resize and source.pixels is None:
        raise ValueError(f"--resize is for images: {source.name} has none; leave it out")
    if options.calibrated and source.window is None:
        raise ValueError(f"--calibrated is for series: {source.name} is none; leave it out")


def _fields(options: argparse.Namespace, trained: Trained, world: World) -> list[str]:
    """Collective: forecast fields, from the latest state unless a time is given."""
    # Only fields pay for netCDF4.
    from hpc_bnn.cli.forecast_command import forecast_into
    from hpc_bnn.fields.forecast_set import require_output
    from hpc_bnn.train.score.starts import LATEST

    if options.calibrated or options.resize or options.input:
        raise ValueError(
            f"{trained.parts.source.name}: --calibrated is for series, --resize for images; other "
            "files of fields: data.path=PATH"
        )
    world.all_ranks.on_first(lambda: require_output(options.output), name="output")
    return forecast_into(
        options.output,
        trained,
        world,
        begin=[options.start or LATEST],
        steps=None,
        members=options.samples,
        plots=True,
    )
