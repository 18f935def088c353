"""Zonal power spectra of forecasts beside that of the truth, a function (data, path) -> path of a
PNG.

A curve of the members above that of the truth at its end: artefacts of single points; below it:
forecasts that are too smooth. The mean of an ensemble is smoother where its members differ.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from hpc_bnn.verify.plots import BLACK, BLUE, ORANGE, legend_above, make_panels, save_figure
from hpc_bnn.verify.spectrum import Spectra
from hpc_bnn.verify.weather_plots import channels_to_draw, lead_text, pretty

DAY_H = 24.0
FLOOR = 1e-13  # of the whole power, mean included: below it there is round-off of float32 only


def plot_spectra(
    spectra: Spectra,
    names: Sequence[str],
    units: Sequence[str],
    lead_hours: Sequence[float],
    path: Path,
    *,
    note: str = "",
) -> Path:
    """Draw the spectra (L, C, K) of well-known channels at the lead time next to a day and at the
    last, with the power of members over that of the truth in the highest quarter of wavenumbers.
    """
    shown = channels_to_draw(names)
    day = min(range(len(lead_hours)), key=lambda at: abs(lead_hours[at] - DAY_H))
    leads = sorted({day, len(lead_hours) - 1})
    figure, panels = make_panels(len(shown), len(leads), height_in=2.0, share_x=True)
    for at, axes in enumerate(panels):
        name, lead = shown[at // len(leads)], leads[at % len(leads)]
        channel = list(names).index(name)
        held = Spectra(*(power[lead, channel] for power in spectra))
        waves = range(1, len(held.truth))
        for power, label, style, colour in (
            (held.truth, "truth", "-", BLACK),
            (held.members, "members", "-", BLUE),
            (held.mean, "ensemble mean", "--", ORANGE),
        ):
            axes.loglog(waves, _positive(power[1:]), style, color=colour, label=label)
        axes.set_title(f"{name}, {lead_text(lead_hours[lead])}", loc="left", fontsize=10)
        share = highest_ratio(held)
        ratio = "truth has none" if math.isnan(share) else f"{share:.3g}"
        told = f"members / truth, k $\\geq$ {_highest(held.truth)}: {ratio}"
        axes.set_title(told, loc="right", fontsize=9)
        axes.tick_params(labelsize=8)
        if at % len(leads) == 0:
            axes.set_ylabel(f"power [({pretty(units[channel])})$^2$]", fontsize=9)
        if at // len(leads) == len(shown) - 1:
            axes.set_xlabel("zonal wavenumber k")
    if note:
        figure.supxlabel(note, fontsize=8)
    legend_above(figure, panels)
    return save_figure(figure, path)


def highest_ratio(spectra: Spectra) -> float:
    """Return the power of members over that of the truth (K,) in the highest quarter of
    wavenumbers; NaN where the truth has none but round-off.
    """
    first, whole = _highest(spectra.truth), float(spectra.truth.sum())
    truth = float(spectra.truth[first:].sum())
    if not truth > FLOOR * whole:
        return math.nan
    return float(spectra.members[first:].sum()) / truth


def _highest(power: Tensor) -> int:
    """Return the first wavenumber of the highest quarter."""
    return 1 + 3 * (len(power) - 1) // 4


def _positive(power: Tensor) -> list[float]:
    """Return what a logarithmic axis can hold: NaN, a gap, for what is not positive."""
    kept: list[float] = torch.where(power > 0, power, math.nan).tolist()
    return kept
