"""Scores of field forecasts, one value for each start time, lead time and variable.

Each is a mean over the area of the globe (of the points that have values), so that scores of many
starts are means over `starts` of these: RMSE = sqrt(mean of mse), spread = sqrt(mean of variance),
skill = 1 - mean / mean of the reference. NaN where a score is not defined (fair ones and the
variance of one member, a correlation of nothing) or a forecast was.

Letters: N start times, L lead times, C variables, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Column:
    """What a score is; power: of the unit of the variable that it has."""

    long_name: str
    power: int = 0


# Of (N, L, C).
COLUMNS = {
    "mse": Column("mean squared error of the ensemble mean", 2),
    "mae": Column("mean absolute error of the ensemble mean", 1),
    "crps": Column("CRPS of the ensemble", 1),
    "fair_crps": Column("CRPS of the ensemble, unbiased in the number of members", 1),
    "variance": Column("mean variance over the members, of M - 1 degrees of freedom", 2),
    "acc": Column("anomaly correlation of the ensemble mean, not centred"),
    "energy_score": Column("energy score of the whole field, of root mean square distances", 1),
    "fair_energy_score": Column("energy score, unbiased in the number of members", 1),
    "persistence_mse": Column("mean squared error of the state at the start", 2),
    "persistence_acc": Column("anomaly correlation of the state at the start, not centred"),
    "persistence_crps": Column("mean absolute error of the state at the start", 1),
    "climatology_mse": Column("mean squared error of the climatological mean", 2),
    "climatology_crps": Column("CRPS of the climatology, a normal distribution", 1),
}
# Of (N, L, C, Q): the event is a truth above the climatological quantile.
EVENT_COLUMNS = {
    "brier": Column("Brier score of the share of members above the quantile"),
    "climatology_brier": Column("Brier score of the climatological probability"),
}


@dataclass(frozen=True, eq=False)
class StartScores:
    """The scores of each start.

    starts: (N,) int64, seconds since 1970 UTC, increasing. names, units: of the C variables.
    levels: the Q probabilities of the climatological quantiles. members: M.
    values: by the names of ``COLUMNS`` (N, L, C) and ``EVENT_COLUMNS`` (N, L, C, Q), float64 on the
    CPU.

    Raises
    ------
    ValueError
        If a score is missing, unknown or of another shape.
    """

    starts: Tensor
    lead_hours: tuple[float, ...]
    names: tuple[str, ...]
    units: tuple[str, ...]
    levels: tuple[float, ...]
    members: int
    values: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        cell = (len(self.starts), len(self.lead_hours), len(self.names))
        shapes = dict.fromkeys(COLUMNS, cell)
        wanted = shapes | dict.fromkeys(EVENT_COLUMNS, (*cell, len(self.levels)))
        if self.values.keys() != wanted.keys():
            different = sorted(self.values.keys() ^ wanted.keys())
            raise ValueError(
                f"StartScores: {', '.join(different)}: expected exactly the scores "
                f"{', '.join(wanted)}"
            )
        for name, shape in wanted.items():
            held = self.values[name]
            if tuple(held.shape) != shape or held.dtype != torch.float64:
                raise ValueError(
                    f"StartScores: {name} {tuple(held.shape)} of {held.dtype}: expected {shape} of "
                    "torch.float64"
                )
        if len(self.units) != len(self.names):
            raise ValueError(
                f"StartScores: {len(self.units)} units of {len(self.names)} variables: expected "
                "one of each"
            )

    def mean(self, name: str) -> Tensor:
        """Return the mean (L, C) or (L, C, Q) of a score over the starts, in their order; NaN where
        one is.
        """
        return self.values[name].mean(0)
