"""The points of a scaling study as pure arithmetic: which grid, K and B each run has.

A run that two kinds or modes share (one rank, or a grid with the same K and B) is made once and
belongs to both series. Repeats are interleaved: all points once, then all again, so that a machine
that warms up or fills with other jobs does not look like scaling.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from hpc_bnn.config import SettingsError
from hpc_bnn.study.study_file import ALONG_DATA, KINDS, MODES, Kind, Mode, Study

# Numbers that fit every point are advised up to this multiple of the number of the settings.
FARTHEST = 64


@dataclass(frozen=True)
class Point:
    """One run of a study.

    Attributes
    ----------
    series
        The (kind, mode) pairs whose curve the run is a point of.
    repeat
        From 1 on.
    overrides
        All that distinguishes its settings from those of the study.
    """

    name: str
    series: tuple[tuple[str, str], ...]
    nodes: int
    ranks: int
    repeat: int
    sample_ranks: int
    data_ranks: int
    samples: int
    batch_size: int
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Size:
    """Where a (kind, mode) stands at one number of ranks, before K and B are known to divide."""

    kind: Kind
    mode: Mode
    nodes: int
    ranks: int
    sample_ranks: int

    @property
    def data_ranks(self) -> int:
        return self.ranks // self.sample_ranks


@dataclass(frozen=True)
class Axis:
    """One axis of the grid: the setting that it shares, and the kind in which that grows."""

    name: str
    key: str
    growing: Kind

    def ranks(self, size: Size) -> int:
        return size.sample_ranks if self.name == "sample" else size.data_ranks

    def value(self, size: Size, number: int, base: int) -> tuple[int, int]:
        """Return the setting at a size, ``number`` on ``base`` ranks, and what does not divide."""
        return scaled(number, size.ranks, base) if size.kind == self.growing else (number, 0)

    def fits(self, size: Size, number: int, base: int) -> bool:
        value, rest = self.value(size, number, base)
        return not rest and value % self.ranks(size) == 0


SAMPLE_AXIS = Axis("sample", "posterior.samples", "proportional_samples")
DATA_AXIS = Axis("data", "train.batch_size", "growing_batch")


def sizes(study: Study) -> list[Size]:
    """Return every (kind, mode, number of ranks) of a study.

    Raises
    ------
    SettingsError
        If the sample ranks of mode hybrid do not divide the ranks of a point.
    """
    placed: dict[Size, None] = {}
    problems: dict[str, None] = {}
    hybrid = study.sample_ranks or study.ranks_per_node or 1
    for kind, mode in product(KINDS, MODES):
        if kind not in study.kinds or (kind in ALONG_DATA and mode == "sample"):
            continue
        for number in study.sizes_of(mode):
            ranks = number * (study.ranks_per_node or 1)
            sample_ranks = {"sample": ranks, "data": 1}.get(mode, hybrid)
            if ranks == 1:
                placed[Size(kind, "local", 1, 1, 1)] = None
            elif mode == "hybrid" and ranks % sample_ranks:
                below, above = _around(ranks, sample_ranks)
                problems[
                    f"mode hybrid on {ranks} ranks: the {sample_ranks} sample ranks do not "
                    f"divide them; {_either(below, above)} ranks would do, or give hybrid its own "
                    "numbers, such as modes: {hybrid: [4]}"
                ] = None
            elif mode != "local":
                placed[Size(kind, mode, number if study.nodes else 1, ranks, sample_ranks)] = None
    if problems:
        raise SettingsError(list(problems))
    return list(placed)


def make_points(study: Study, *, samples: int, batch_size: int) -> list[Point]:
    """Return the runs of a study in the order in which they are made.

    samples, batch_size: K and B of the smallest point.

    Raises
    ------
    SettingsError
        If some K or B does not divide; names the numbers and the nearest that fit.
    """
    placed = sizes(study)
    base = min(size.ranks for size in placed)
    problems = _problems(placed, base, samples, SAMPLE_AXIS)
    problems += _problems(placed, base, batch_size, DATA_AXIS)
    if problems:
        raise SettingsError(problems)
    runs: dict[tuple[int, ...], list[tuple[str, str]]] = {}
    for size in placed:
        k, _ = SAMPLE_AXIS.value(size, samples, base)
        b, _ = DATA_AXIS.value(size, batch_size, base)
        key = (size.ranks, size.nodes, size.sample_ranks, k, b)
        runs.setdefault(key, []).append((size.kind, size.mode))
    return [
        _point(*key, series=tuple(series), repeat=repeat, steps=study.steps)
        for repeat in range(1, study.repeats + 1)
        for key, series in sorted(runs.items())
    ]


def _point(
    ranks: int, nodes: int, sample_ranks: int, samples: int, batch_size: int,
    *, series: tuple[tuple[str, str], ...], repeat: int, steps: int,
) -> Point:  # fmt: skip
    data_ranks = ranks // sample_ranks
    overrides = (
        "grid.mode=hybrid",  # of which S is the whole meaning
        f"grid.sample_ranks={sample_ranks}",
        f"posterior.samples={samples}",
        f"train.batch_size={batch_size}",
        f"train.steps={steps}",
        "train.epochs=0",
        "train.checkpoint_every=0",
        "train.validate_every=0",
        "train.max_time=0.0",
    )
    name = f"ranks{ranks}-grid{sample_ranks}x{data_ranks}-K{samples}-B{batch_size}-r{repeat}"
    return Point(
        name, series, nodes, ranks, repeat, sample_ranks, data_ranks, samples, batch_size, overrides
    )


def scaled(number: int, ranks: int, base: int) -> tuple[int, int]:
    """Return quotient and remainder of number * ranks / base."""
    return divmod(number * ranks, base)


def _problems(placed: Sequence[Size], base: int, number: int, axis: Axis) -> list[str]:
    """Return what does not divide along one axis, and which numbers would at every point."""
    unshared = [size for size in placed if not axis.fits(size, number, base)]
    if not unshared:
        return []
    # A size takes multiples of one number only: n * grown / base must be a multiple of its ranks.
    needs = [(base * axis.ranks(size), axis.value(size, base, base)[0]) for size in placed]
    below, next_one = _around(number, math.lcm(*(n // math.gcd(n, g) for n, g in needs)))
    above = next_one if next_one <= FARTHEST * number else None
    advice = (
        f"set {axis.key} to {_either(below, above)}, the nearest that fit every point"
        if below or above
        else "leave out some numbers of ranks"
    )
    texts = []
    for size in unshared:
        value, rest = axis.value(size, number, base)
        grows = f", grown from {number} on {base} ranks" if value != number or rest else ""
        shown = f"{number * size.ranks}/{base}" if rest else str(value)
        texts.append(
            f"{size.kind}, mode {size.mode}, {size.ranks} ranks: {axis.key} = {shown}{grows}: "
            f"the {axis.ranks(size)} {axis.name} rank(s) do not share it equally; {advice}"
        )
    return texts


def _around(number: int, step: int) -> tuple[int | None, int]:
    """Return the multiples of ``step`` below and above ``number``, none below the first."""
    below = number // step * step
    return (below or None), below + step


def _either(below: int | None, above: int | None) -> str:
    return " or ".join(str(n) for n in (below, above) if n is not None)
