"""A toy atmosphere of a year and a small SWIN on it: what the tests of weather forecasts share."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hpc_bnn.bayes.noise import Purpose, Stream, normals
from hpc_bnn.config import Settings
from hpc_bnn.data import Source
from hpc_bnn.fields.toy_atmosphere import write_toy
from hpc_bnn.group import ALONE, Group
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.build import build, read_source
from hpc_bnn.train.score.trained import Trained

STEP_HOURS = 12
SETTINGS: dict[str, Any] = {
    "seed": 5,
    "posterior": {"samples": 2, "predict_samples": 3, "initial_sigma": 0.1},
    "loss": {"name": "almost_fair_crps"},
    "model": {
        "name": "swin",
        "width": 8,
        "depths": [2, 0, 0, 2],
        "heads": [2, 2, 2, 2],
        "window": [2, 2],
    },
    "data": {
        "name": "era5",
        "variables": ["t2m", "u10", "v10", "z"],
        "levels": [500],
        "static": ["lsm"],
        "step_hours": STEP_HOURS,
        "train": ["2001-01-01", "2001-02-20"],
        "validation": ["2001-02-21", "2001-02-25"],
        "test": ["2001-03-01", "2001-03-12"],
    },
    "train": {
        "device": "cpu",
        "steps": 3,
        "batch_size": 4,
        "precision": "float64",
        "checkpoint_every": 0,
    },
    "evaluation": {"starts": 5, "steps": 3},
}


def write_small_toy(folder: Path, *, format: Literal["new", "legacy"] = "legacy") -> Path:
    write_toy(
        folder, years=1, rows=7, columns=16, step_hours=STEP_HOURS, levels=[500.0], format=format
    )
    return folder


def toy_settings(folder: Path, **changes: dict[str, Any]) -> dict[str, Any]:
    """Return settings for the toy in ``folder``; ``changes``: keys of a section to replace."""
    made = {key: dict(part) if isinstance(part, dict) else part for key, part in SETTINGS.items()}
    made["data"]["path"] = str(folder)
    for section, keys in changes.items():
        made[section] = {**made.get(section, {}), **keys}
    return made


def toy_source(folder: Path, ranks: Group = ALONE, **changes: dict[str, Any]) -> Source:
    return read_source(Settings.model_validate(toy_settings(folder, **changes)), ranks)


def toy_trained(folder: Path, source: Source, **changes: dict[str, Any]) -> Trained:
    """Return a run that has not been trained: its weights are as good as any other."""
    settings = Settings.model_validate(toy_settings(folder, **changes))
    return Trained(settings, build(settings, source), 0)


def forecast_by_hand(trained: Trained, starts: Tensor, steps: int, *, members: int) -> Tensor:
    """Return the members (M, L, B, C, H, W) in physical units and float64, by ``predict``,
    or ``network`` of redrawn samples, alone."""
    posterior, loss, fields = (
        trained.parts.posterior,
        trained.parts.loss,
        trained.parts.source.fields,
    )
    assert fields is not None
    dtype = next(posterior.parameters()).dtype
    normal = [v[:, None, None].double() for v in (fields.state_mean, fields.state_std)]
    forecasts = []
    for member in range(members):
        when = [starts - k * STEP_HOURS * 3600 for k in reversed(range(fields.history))]
        at = [torch.searchsorted(fields.record.times, seconds) for seconds in when]
        past = [fields.record.states(indices).double() for indices in at]
        perturb = trained.settings.perturb  # gaussian, in units of the state
        for lead in range(steps):
            own = past  # of which later histories are made
            if perturb is not None and (lead == 0 or perturb.redraw == "each_step"):
                keys = [start // 3600 + 719_162 * 24 for start in starts.tolist()]
                streams = [Stream(posterior.seed, Purpose.PERTURBATION, k, member) for k in keys]
                shape = past[0].shape[1:]
                noise = [normals(each, shape, offset=lead * shape.numel()) for each in streams]
                past = [state + perturb.scale * torch.stack(noise).double() for state in past]
                own = own if perturb.redraw == "each_step" else past
            forcing = fields.record.forcing(starts + lead * STEP_HOURS * 3600)
            x = torch.cat([*past, forcing], 1).to(dtype)
            if trained.settings.forecast.redraw == "each_step":
                output = posterior.network(member, redraw=lead)(x)[None]
            else:
                output = posterior.predict(x, samples=1, first=member)
            mean, sigma = loss.forecast(output)
            tendency = mean[0].double()
            for b, start in enumerate(starts.tolist() if sigma is not None else ()):
                key = start // 3600 + 719_162 * 24
                stream = Stream(posterior.seed, Purpose.OBSERVATION, key, member)
                shape = tendency[b].shape
                tendency[b] += sigma[0, b] * normals(stream, shape, offset=lead * shape.numel())
            now = fields.physical(past[-1]) + fields.tendency_std[:, None, None] * tendency
            forecasts.append(now)
            past = [*own[1:], (now - normal[0]) / normal[1]]
    return torch.stack(forecasts).unflatten(0, (members, steps))


def data_world(all_ranks: Group) -> World:
    """Return the grid on which runs are evaluated: one sample rank."""
    grid = Grid(1, all_ranks.size, all_ranks.rank)
    return World(grid, torch.device("cpu"), all_ranks, data_axis=all_ranks)


ALONE_WORLD = World(Grid(1, 1, 0), torch.device("cpu"))
