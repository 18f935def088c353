"""Score a trained run on its test split and draw its pictures; weather: ``weather_report``."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hpc_bnn.config import Settings
from hpc_bnn.data.images.foreign import FOREIGN
from hpc_bnn.data.source import Examples
from hpc_bnn.files import write_json
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.score.away import is_away, results_folder
from hpc_bnn.train.score.curves import draw_curves
from hpc_bnn.train.score.memory import write_estimate
from hpc_bnn.train.score.recalibrate import describe_recalibration, recalibration_of
from hpc_bnn.train.score.scoring import Filled, as_input, score
from hpc_bnn.train.score.trained import load_trained
from hpc_bnn.train.score.weather_report import report_weather, weather_table
from hpc_bnn.verify.plots import plot_pit, plot_reliability
from hpc_bnn.verify.recalibration import RecalibratedTally
from hpc_bnn.verify.score_text import score_lines
from hpc_bnn.verify.tally import ClassificationTally, RegressionTally

log = logging.getLogger(__name__)


def evaluate(
    world: World,
    folder: RunFolder,
    *,
    recalibrate: str | None = None,
    checkpoint: str = "",
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Collective over the world: score the test split with the newest checkpoint; write
    evaluation.json, memory.json and plots. Classifiers also see inputs that do not belong to the
    data set.

    recalibrate: as ``evaluation.recalibrate``, which is taken if None. checkpoint: as of
    ``load_trained``. overrides: key=value; scores of other data go to a folder of their own, and
    all of a series counts.

    Raises
    ------
    FileNotFoundError
        If the folder holds no run.
    CheckpointError
        If it holds no usable checkpoint.
    """
    run = folder
    trained = load_trained(world, run, checkpoint=checkpoint, overrides=overrides)
    away = world.all_ranks.on_first(lambda: is_away(run, trained.settings), name="settings")
    if away:
        folder = results_folder(run, trained.settings)
    if not away:
        gpu = world.device.type == "cuda"
        world.all_ranks.on_first(lambda: write_estimate(trained, run, gpu=gpu), name="memory")
    recalibration = None
    if (recalibrate or trained.settings.evaluation.recalibrate) != "none":
        of_run = load_trained(world, run, checkpoint=checkpoint) if away else trained
        recalibration = recalibration_of(of_run, world, run)
    if trained.parts.source.fields is not None:
        return report_weather(world, folder, trained)
    settings, source = trained.settings, trained.parts.source
    samples = trained.predict_samples
    report = None if source.report is None else source.report(source)

    def scored(examples: Examples, tally: Filled | None) -> Filled:
        return score(
            trained.parts.posterior,
            trained.parts.loss,
            examples,
            world,
            task=source.task,
            output_shape=source.output_shape,
            scale=source.scale,
            samples=samples,
            batch_size=settings.train.batch_size,
            tally=tally,
        )

    tally: Filled | None = None if report is None else report.tally()
    recalibrated: dict[str, Any] = {}
    if recalibration is None:
        tally = scored(source.test, tally)
    else:
        assert isinstance(tally, RegressionTally)
        both = RecalibratedTally(tally, recalibration)
        scored(source.test, both)
        recalibrated = describe_recalibration(recalibration, both)
    assert isinstance(tally, ClassificationTally | RegressionTally)
    result = {
        "data": source.name,
        "split": "all" if away and source.window is not None else "test",
        "step": trained.step,
        "samples": samples,
        "ema": settings.train.ema,
        "units": source.scale.units if source.scale else "",
        "scores": tally.result(),
        **recalibrated,
        **_calibration(tally, source.output_shape),
        **({} if report is None else report.details(tally)),
    }
    if isinstance(tally, ClassificationTally):
        foreign = {name: scored(made(source.test), None) for name, made in FOREIGN.items()}
        result["foreign"] = {name: _told_apart(tally, of) for name, of in foreign.items()}

    @torch.no_grad()  # the noise of a loss is a parameter
    def forecast(x: Tensor) -> tuple[Tensor, Tensor | None]:
        posterior = trained.parts.posterior
        x = as_input(posterior, x, world.device)
        forecast = trained.parts.loss.forecast(posterior.predict(x, samples=samples))
        return forecast if recalibration is None else recalibration.apply(*forecast)

    def write() -> None:
        write_json(folder.evaluation, result)
        _draw(folder, settings, tally)
        if report is not None:
            report.draw(folder.plots, tally, forecast)

    world.all_ranks.on_first(write, name="evaluation")
    return result


def told(result: dict[str, Any]) -> list[str]:
    """Return the result of ``evaluate`` as lines of text."""
    if "lead_hours" in result:
        return weather_table(result)
    units = result["units"]
    part = "all of it" if result["split"] == "all" else "test split"
    lines = [f"{result['data']}, {part}, {result['samples']} weight samples"]
    lines += score_lines(result["scores"], units)
    if "recalibration" in result:
        lines[0] += ", spread recalibrated on validation"
        before = result["recalibration"]["before"]
        before = {key: before[key] for key in ("crps", "coverage_90")}
        lines += score_lines(before, units, of="before recalibration: ")
    for name, of in result.get("foreign", {}).items():
        lines += score_lines(of, of=f"{name}: ")
    for name, of in result.get("naive", {}).items():
        of = {key: of[key] for key in ("accuracy", "nll", "rmse", "crps") if key in of}
        lines += score_lines(of, units, of=f"{name.replace('_', ' ')}: ")
    if "standardised" in result:
        lines += _skill_lines(result)
    return lines


def _calibration(
    tally: ClassificationTally | RegressionTally, output_shape: Sequence[int]
) -> dict[str, Any]:
    """Return what the pictures of calibration are drawn from; of classes the scores of a guess that
    finds all of them equally probable, too.
    """
    if isinstance(tally, RegressionTally):
        has_pit = "pit_chi_square" in tally.result()
        return {"pit_counts": tally.pit_counts().tolist()} if has_pit else {}
    bins, classes = tally.reliability(), output_shape[0]
    guess = {"accuracy": 1 / classes, "nll": math.log(classes), "brier": 1 - 1 / classes}
    return {
        "reliability": {
            "count": bins.count.tolist(),
            "confidence": bins.mean_confidence().tolist(),
            "accuracy": bins.accuracy().tolist(),
        },
        "naive": {"uniform_guess": guess},
    }


def _skill_lines(result: dict[str, Any]) -> list[str]:
    """Return a table of standardised scores, with the skill over naive forecasts of series."""
    lines = ["  standardised by training rows     MSE     MAE    CRPS    skill in CRPS"]
    rows = {"this forecast": (result["standardised"], {})}
    for name, of in result["naive"].items():
        rows[name.replace("_", " ")] = (of["standardised"], result["skill"][name])
    for name, (scores, skills) in rows.items():
        over = f"{skills['crps']:9.3f}" if "crps" in skills else ""
        row = f"    {name:24s}" + "".join(f"{scores[key]:8.4f}" for key in ("mse", "mae", "crps"))
        lines.append(row + over)
    return [*lines, *([f"  warning: {result['warning']}"] if "warning" in result else [])]


def _told_apart(own: ClassificationTally, foreign: Filled) -> dict[str, float]:
    """Return how well the confidence tells inputs that do not belong to the data set."""
    assert isinstance(foreign, ClassificationTally)
    scores = foreign.result()
    return {
        "auroc": own.auroc(foreign),
        **{name: scores[name] for name in ("entropy", "mutual_information") if name in scores},
    }


def _draw(
    folder: RunFolder, settings: Settings, tally: ClassificationTally | RegressionTally
) -> None:
    folder.plots.mkdir(parents=True, exist_ok=True)
    folder.remove_pictures()
    draw_curves(folder, settings)
    if isinstance(tally, ClassificationTally):
        plot_reliability(tally.reliability(), folder.plots / "reliability.png")
    elif "pit_chi_square" in tally.result():
        plot_pit(tally.pit_counts(), folder.plots / "pit.png")
