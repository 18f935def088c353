"""Keyed noise on normalised states: a pattern of its own for each channel, times a scale.

    perturbed = state + scale * size * pattern(eps)

size is the standard deviation of the change over one step, or of the state; both of normalised
states. All states of a history get the same noise, since errors of analyses outlive a step. Points
that never have a value keep 0.

Letters: N fields, h states of the history, C channels, H latitude, W longitude.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from hpc_bnn.bayes.noise import Stream, normals
from hpc_bnn.data.source import Fields
from hpc_bnn.fields.perturb import PATTERNS
from hpc_bnn.spelling import nearest

Unit = Literal["change", "state"]


class Perturbation:
    """Noise for the states of ``fields``.

    Parameters
    ----------
    name
        Of the pattern.
    scale
        Of all channels, or by channel, others 0.
    unit
        What the scale counts: standard deviations of the normalised change over a step, or of the
        state.
    options
        Of the pattern.

    Raises
    ------
    ValueError
        For a channel that there is not, a negative scale, or what the pattern refuses.
    """

    def __init__(
        self,
        fields: Fields,
        *,
        name: str,
        scale: float | Mapping[str, float],
        unit: Unit,
        options: Mapping[str, Any],
    ) -> None:
        scales = torch.tensor(_scales(scale, fields.names), dtype=torch.float64)
        size = fields.tendency_std / fields.state_std if unit == "change" else 1.0
        self._scale = (scales * size)[:, None, None]
        self._pattern = PATTERNS[name](
            fields.latitude, fields.longitude, fields.periodic, **options
        )
        self._absent = None if fields.present is None else ~fields.present

    def draw(
        self,
        streams: Sequence[Stream],
        like: Tensor,
        *,
        first: int = 0,
        number: int = 1,
        offsets: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the noise (N, number, C, H, W) of N streams, on the device and of the dtype of
        ``like``: of the states that lie in a stream one after the other, those from ``first`` on.

        offsets: (N,), where in its stream the first state lies; None: at its beginning.
        """
        channels, count = len(self._scale), self._pattern.count
        shape, skipped = (number * channels, count), first * channels * count
        eps = [
            normals(stream, shape, offset=offset + skipped, device=like.device)
            for stream, offset in zip(streams, offsets or [0] * len(streams), strict=True)
        ]
        scale = self._scale = self._scale.to(like.device)
        fields = self._pattern(torch.cat(eps))
        fields = fields.view(len(streams), number, channels, *fields.shape[-2:])
        noise: Tensor = (scale * fields).to(like.dtype)
        if self._absent is None:
            return noise
        self._absent = self._absent.to(like.device)
        noise[..., self._absent] = 0.0
        return noise


def _scales(scale: float | Mapping[str, float], names: Sequence[str]) -> list[float]:
    """Return the scale of each channel; refuse those that cannot be."""
    if not isinstance(scale, Mapping):
        return [scale] * len(names)
    for name in scale:
        if name not in names:
            raise ValueError(
                f"perturb.scale: no channel {name!r}{nearest(name, names)}; there are "
                f"{', '.join(names)}"
            )
    return [scale.get(name, 0.0) for name in names]
