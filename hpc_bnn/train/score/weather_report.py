"""What ``evaluate`` writes of weather forecasts: ``evaluation.json`` and pictures."""

import json
import math
from collections.abc import Mapping
from typing import Any

from hpc_bnn.fields.names import is_signed, split_channel
from hpc_bnn.fields.start_scores_file import write_start_scores
from hpc_bnn.files import write_json
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.versions import history_line
from hpc_bnn.train.score.curves import draw_curves
from hpc_bnn.train.score.rollout import time_text
from hpc_bnn.train.score.spectra_report import report_spectra
from hpc_bnn.train.score.trained import Trained
from hpc_bnn.train.score.weather import WeatherScores, score_weather
from hpc_bnn.verify.event_plots import plot_events
from hpc_bnn.verify.weather_maps import plot_maps
from hpc_bnn.verify.weather_plots import (
    channels_to_draw,
    plot_ranks,
    plot_scores,
    plot_spread_skill,
)


def report_weather(world: World, folder: RunFolder, trained: Trained) -> dict[str, Any]:
    """Collective over the world: score the forecasts of a run, write scores and pictures."""
    fields = trained.parts.source.fields
    assert fields is not None
    drawn = channels_to_draw(fields.names)
    scored = score_weather(trained, world, drawn=[fields.names.index(name) for name in drawn])
    perturb = trained.settings.perturb
    result = {
        "data": trained.parts.source.name,
        "split": "test",
        "step": trained.step,
        "members": trained.predict_samples,
        "ema": trained.settings.train.ema,
        "redraw": trained.settings.forecast.redraw,
        "perturb": None if perturb is None else perturb.model_dump(),
        "starts": len(scored.starts),
        "first_start": time_text(int(scored.starts[0])),
        "last_start": time_text(int(scored.starts[-1])),
        "lead_hours": list(scored.lead_hours),
        "units": {channel.name: channel.units for channel in fields.channels},
        "scores": scored.by_channel,
    }

    def write() -> None:
        folder.remove_pictures()
        write_json(folder.evaluation, result)
        texts = {name: str(result[name]) for name in ("data", "split", "ema", "redraw")}
        texts["perturb"] = json.dumps(result["perturb"])
        texts["history"] = history_line("evaluate")
        attributes: dict[str, str | int] = {**texts, "step": trained.step}
        write_start_scores(folder.evaluation_starts, scored.of_starts, attributes=attributes)
        note = _note(result)
        _draw(folder, trained, scored, result, note)
        report_spectra(
            scored.spectra,
            fields,
            scored.lead_hours,
            file=folder.evaluation_spectra,
            plots=folder.plots,
            note=note,
            attributes={**attributes, "members": trained.predict_samples},
        )

    world.all_ranks.on_first(write, name="evaluation")
    return result


def weather_table(result: dict[str, Any]) -> list[str]:
    """Return scores at 24 h and at the last lead time, model beside persistence and climatology;
    what one member does not define is "-".
    """
    leads: list[float] = result["lead_hours"]
    day = min(range(len(leads)), key=lambda i: abs(leads[i] - 24))
    columns = {"spread_skill_ratio": "12.2f", "coverage_90": "11.3f", "acc": "8.3f"}
    of_each = 2 * f"  {'model':>11s} {'persist.':>10s} {'climat.':>10s}"
    names = f"{'spread/skill':>12s} {'in 90 %':>11s} {'ACC':>8s}"
    references = f"{'(1 asked)':>12s} {'(0.9 asked)':>11s} {'(1 best)':>8s}"
    lines = [
        f"{result['data']}, test split, {result['starts']} starts, {result['members']} members",
        f"{'':8s} {'lead':>6s}   {'RMSE':^33s}   {'CRPS':^33s}   {names}",
        f"{'':8s} {'':>6s} {of_each}   {references}",
    ]
    for name, scores in result["scores"].items():
        for lead in sorted({day, len(leads) - 1}):
            numbers = [
                f"{_number(scores[score][lead], '11.4g')} "
                f"{_number(scores['persistence'][score][lead], '10.4g')} "
                f"{_number(scores['climatology'][score][lead], '10.4g')}"
                for score in ("rmse", "crps")
            ]
            undefined = [math.nan] * len(leads)
            others = [
                _number(scores.get(score, undefined)[lead], form) for score, form in columns.items()
            ]
            lines.append(
                f"{name:8s} {leads[lead]:4g} h   {numbers[0]}   {numbers[1]}   "
                f"{' '.join(others)}  [{result['units'][name]}]"
            )
    return lines


def _number(value: float, form: str) -> str:
    """Return a score as text, "-" where it is not defined, such as the ratio of one member."""
    return f"{'-':>{form.partition('.')[0]}}" if math.isnan(value) else f"{value:{form}}"


def _note(result: Mapping[str, Any]) -> str:
    first, last = (result[name].replace("T", " ") for name in ("first_start", "last_start"))
    return f"{result['starts']} starts, {first} to {last} UTC, {result['members']} members"


def _draw(
    folder: RunFolder, trained: Trained, scored: WeatherScores, result: dict[str, Any], note: str
) -> None:
    fields, scores = trained.parts.source.fields, result["scores"]
    assert fields is not None
    draw_curves(folder, trained.settings)
    shown = {name: scores[name] for name in channels_to_draw(fields.names)}
    leads, units = scored.lead_hours, result["units"]
    plot_scores(shown, leads, units, folder.plots / "scores.png", note=note)
    if result["members"] > 1:
        plot_spread_skill(shown, leads, units, folder.plots / "spread_skill.png", note=note)
    plot_ranks(shown, leads, folder.plots / "ranks.png", note=note)
    plot_events(shown, leads, folder.plots / "events.png", note=note)
    for picture in scored.pictures:
        hours = leads[picture.lead]
        for at, name in enumerate(shown):
            plot_maps(
                picture.mean[at],
                picture.spread[at] if result["members"] > 1 else None,
                picture.truth[at],
                fields.latitude,
                fields.longitude,
                folder.plots / f"map_{name}_{hours:g}h.png",
                members=result["members"],
                name=name,
                units=units[name],
                start_s=picture.start_s,
                lead_hours=hours,
                signed=is_signed(split_channel(name)[0]),
            )
