"""Where the noise of a time lies: its hour names the stream, its second of the hour the part of it.

So no two times share a number, and times of whole hours have the part that begins a stream.
"""

from dataclasses import dataclass

from torch import Tensor

HOUR_S = 3600
HOURS_BEFORE_1970 = 17_259_888  # since the year 0001: keys of noise are not negative
HOUR_LIMIT = 1 << 27  # the year 9999 ends below it
PART = 1 << 48  # elements of a part: more than any forecast takes


@dataclass(frozen=True)
class NoiseTime:
    """What keys the noise of forecasts from one start time.

    Attributes
    ----------
    hour
        Since the year 0001.
    second
        Of the hour.
    """

    hour: int
    second: int

    @property
    def offset(self) -> int:
        """The first element of the streams of the hour that is of this time."""
        return self.second * PART

    @property
    def position(self) -> int:
        """Where an example of this time lies among those of all times."""
        return self.hour + self.second * HOUR_LIMIT


def noise_times(starts: Tensor) -> list[NoiseTime]:
    """Return what keys the noise of start times (B,), seconds since 1970."""
    parts = (divmod(int(start), HOUR_S) for start in starts)
    return [NoiseTime(hour + HOURS_BEFORE_1970, second) for hour, second in parts]
