"""Maps of one forecast: truth, ensemble mean, spread and error, as a PNG.

Shape letters: H latitude (north to south), W longitude (eastward).
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from hpc_bnn.verify.coastlines import draw_coastlines
from hpc_bnn.verify.plots import WIDTH_IN, make_panels, save_figure
from hpc_bnn.verify.weather_plots import lead_text, pretty

STEPS = [1, 2, 3, 5, 6, 10]  # of the degrees at the axes
DIVERGING = "RdBu_r"
SIGNED_SHARE = 0.1  # of the larger side of 0 that the smaller one has in a signed field


def plot_maps(
    mean: Tensor,
    spread: Tensor | None,
    truth: Tensor,
    latitude: Tensor,
    longitude: Tensor,
    path: Path,
    *,
    members: int,
    name: str,
    units: str,
    start_s: int,
    lead_hours: float,
    signed: bool | None = None,
) -> Path:
    """Draw maps of truth, ensemble mean, spread and error of the mean of one channel, with their
    root mean squares over the area that has values.

    mean, truth: (H, W). spread: (H, W), None of one member. latitude: (H,), longitude: (W,) in
    degrees. members: how many the mean is of.
    start_s: the time the forecast starts from, seconds since 1970 UTC.
    signed: values of both signs, such as wind: their colours diverge from 0. None: as they are.
    """
    size = (len(latitude), len(longitude))
    shapes = {"mean": mean, "truth": truth} | ({} if spread is None else {"spread": spread})
    if any(field.shape != size for field in shapes.values()):
        named = ", ".join(f"{key} {tuple(field.shape)}" for key, field in shapes.items())
        raise ValueError(
            f"plot_maps: {named}, latitude {tuple(latitude.shape)}, longitude "
            f"{tuple(longitude.shape)}: expected (H, W) of all, (H,), (W,)"
        )
    mean, y = mean.double().cpu(), truth.double().cpu()
    spread = None if spread is None else spread.double().cpu()
    error = mean - y
    both = torch.stack([y, mean])
    both = both[both.isfinite()]
    low, high = (float(both.min()), float(both.max())) if both.numel() else (0.0, 1.0)
    colours = "viridis"
    if signed is None:
        signed = min(-low, high) > SIGNED_SHARE * max(-low, high)
    if signed:
        colours, high = DIVERGING, max(-low, high) or 1.0
        low = -high
    most = float(error.abs().nan_to_num(0.0, 0.0, 0.0).max()) or 1.0

    east, north = edges_of(unwrapped(longitude)), edges_of(latitude).clamp(-90, 90)
    area = -north.deg2rad().sin().diff()[:, None].expand(size)

    def over_area(field: Tensor) -> float:
        held = field.isfinite()
        return float((area * field)[held].sum() / area[held].sum())

    figure, panels = make_panels(2, 2, height_in=map_height_in(east, north) + 0.5)
    unit = f"{name} [{pretty(units)}]"

    def draw(
        axes: Axes, title: str, field: Tensor, cmap: str, least: float, largest: float | None
    ) -> None:
        edges = (east, north)
        draw_map(axes, title, field, edges, cmap=cmap, limits=(least, largest), unit=unit)

    forecast = "member" if spread is None else "mean"
    draw(panels[0], "truth", y, colours, low, high)
    of_many = "" if spread is None else f" of {members} members"
    draw(panels[1], forecast + of_many, mean, colours, low, high)
    if spread is None:
        panels[2].set_axis_off()
        panels[2].text(0.5, 0.5, "one member has no spread", ha="center", va="center")
    else:
        root = math.sqrt(over_area(spread.square()))
        draw(panels[2], f"spread, root mean square {root:.3g}", spread, "magma_r", 0.0, None)
    bias, rmse = over_area(error), math.sqrt(over_area(error.square()))
    title = f"{forecast} - truth, RMSE {rmse:.3g}, bias {bias:.2g}"
    draw(panels[3], title, error, DIVERGING, -most, most)
    for axes in panels[2:]:
        axes.set_xlabel("longitude [degrees east]")
    for axes in panels[::2]:
        axes.set_ylabel("latitude\n[degrees north]")
    start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=int(start_s))
    valid = start + timedelta(hours=lead_hours)
    figure.suptitle(
        f"{name}: start {start:%Y-%m-%d %H:%M} UTC, lead time {lead_text(lead_hours)}, "
        f"valid {valid:%Y-%m-%d %H:%M} UTC",
        fontsize=11,
    )
    return save_figure(figure, path)


def map_height_in(east: Tensor, north: Tensor) -> float:
    """Return the height of a map of these edges, which takes about a third of the width."""
    height_in = 0.31 * WIDTH_IN * float((north[0] - north[-1]) / (east[-1] - east[0]))
    return min(5.0, max(0.7, height_in))


def draw_map(
    axes: Axes,
    title: str,
    field: Tensor,
    edges: tuple[Tensor, Tensor],
    *,
    cmap: str,
    limits: tuple[float | None, float | None],
    unit: str,
) -> None:
    """Draw a field (H, W) in cells of these edges, eastward (W + 1,) and northward (H + 1,)."""
    east, north = edges
    mesh = axes.pcolormesh(
        east.numpy(), north.numpy(), field.numpy(), cmap=cmap, vmin=limits[0], vmax=limits[1]
    )
    axes.set_title(title, fontsize=10)
    axes.grid(visible=False)
    axes.set_aspect("equal")
    rows = max(3, min(6, round(4.5 * map_height_in(east, north))))
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=STEPS))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x - 360 if x >= 360 else x:g}")
    axes.yaxis.set_major_locator(MaxNLocator(rows, steps=STEPS))
    draw_coastlines(axes)
    # An inset is as high as the map, whatever shape the region has.
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.colorbar(mesh, cax=axes.inset_axes((1.04, 0, 0.05, 1)), label=unit)


def unwrapped(longitude: Tensor) -> Tensor:
    """Let longitudes (W,) rise past 360 instead of falling back to 0."""
    degrees = longitude.double().cpu()
    turns = (degrees.diff() < 0).double().cumsum(0)
    return degrees + 360 * torch.cat([turns.new_zeros(1), turns])


def edges_of(centres: Tensor) -> Tensor:
    """Compute the edges (N + 1,) of cells around N centres."""
    x = centres.double().cpu()
    if len(x) == 1:
        return torch.cat([x + 0.5, x - 0.5])
    step = x.diff()
    return torch.cat([x[:1] - step[:1] / 2, x[:-1] + step / 2, x[-1:] + step[-1:] / 2])
