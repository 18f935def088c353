"""What states and tendencies are normalised with: statistics of the training range.

Letters: C channels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields import times
from hpc_bnn.fields.pack.pack import Pack
from hpc_bnn.fields.pack.reader import Missing
from hpc_bnn.fields.statistics import statistics as compute_statistics
from hpc_bnn.fields.statistics_file import Statistics
from hpc_bnn.group import Group

logger = logging.getLogger(__name__)


def normalisation(
    pack: Pack,
    given: Statistics | None,
    train: tuple[str, str],
    step_hours: int,
    ranks: Group,
    missing: Missing = "declared",
) -> Statistics:
    """Collective: return the statistics of the channels; of the training range if none are given.

    Those of other files, or of more times than the training range, are told by one warning each.
    """
    if given is None:
        return compute_statistics(
            pack,
            start=str(train[0]),
            end=str(train[1]),
            step_hours=step_hours,
            missing=missing,
            ranks=ranks,
        )
    if given.step_hours != step_hours:
        raise ValueError(
            f"{pack.source}: the statistics are of tendencies over {given.step_hours} h, the "
            f"data set's step_hours = {step_hours}: make them again"
        )
    if given.fingerprint != pack.fingerprint() and ranks.rank == 0:
        logger.warning(
            "%s: the statistics were made of other files or times (%s to %s): they may not "
            "fit; make them again, or leave data.statistics out",
            pack.source,
            given.start,
            given.end,
        )
    span = times.parse(train[0], end=False), times.parse(train[1], end=True)
    made_of = times.parse(given.start, end=False), times.parse(given.end, end=True)
    if ranks.rank == 0 and (made_of[0] < span[0] or made_of[1] > span[1]):
        logger.warning(
            "%s: the statistics are of %s to %s, beyond data.train = %s to %s: normalisation knows "
            "times that are not trained on, perhaps those of the test; make them of the training "
            "range, or leave data.statistics out",
            pack.source,
            given.start,
            given.end,
            *train,
        )
    units = [c.units for c in pack.channels]
    return given.select(pack.names, units, f"statistics of {pack.source}")


def kept_normalisation(
    pack: Pack, kept: Mapping[str, Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return mean, standard deviation and that of tendencies, (C,) each, that a trained run keeps
    of its channels.

    Raises
    ------
    ValueError
        If the channels of the files are others, or in other units.
    """
    units = [channel.units for channel in pack.channels]
    if list(pack.names) != kept["names"] or units != kept["units"]:
        raise ValueError(
            f"{pack.source}: channels {', '.join(pack.names)} in {', '.join(units)}: expected "
            f"those of the training, {', '.join(kept['names'])} in {', '.join(kept['units'])}"
        )
    mean, std, tendency = (np.array(kept[key]) for key in ("mean", "std", "tendency_std"))
    return mean, std, tendency


def positive(pack: Pack, std: NDArray[np.float64], what: str, ranks: Group) -> NDArray[np.float64]:
    """Replace standard deviations (C,) of 0 by 1, with one warning."""
    for at in np.flatnonzero(std == 0) if ranks.rank == 0 else ():
        logger.warning(
            "%s: the %s'%s' is constant in the training range; it is centred, not scaled",
            pack.source,
            what,
            pack.names[at],
        )
    return np.where(std == 0, 1.0, std)
