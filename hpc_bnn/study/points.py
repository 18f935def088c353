"""The points of a scaling study as pure arithmetic: which grid, K and B each run has.

A run that two kinds or modes share (one rank, or a grid with the same K and B) is made once and
belongs to both series. Repeats are interleaved: all points once, then all again, so that a machine
that warms up or fills with other jobs does not look like scaling.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hpc_bnn.config import SettingsError
from hpc_bnn.study.study_file import ALONG_DATA, KINDS, Kind, Mode, Study

# Numbers that fit every point are told up to this multiple of the number given.
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


def sizes(study: Study) -> list[Size]:
    """Return every (kind, mode, number of ranks) of a study.

    Raises
    ------
    SettingsError
        If the sample ranks of mode hybrid do not divide the ranks of a point.
    """
    found: list[Size] = []
    problems: list[str] = []
    for kind in [kind for kind in KINDS if kind in study.kinds]:
        for mode in ("local", "sample", "data", "hybrid"):
            if kind in ALONG_DATA and mode == "sample":
                continue
            for number in study.sizes_of(mode):
                nodes = number if study.nodes else 1
                ranks = number * (study.ranks_per_node or 1)
                if ranks == 1:
                    found.append(Size(kind, "local", 1, 1, 1))
                    continue
                if mode == "local":
                    continue
                wished = study.sample_ranks or study.ranks_per_node or 1
                sample_ranks = {"sample": ranks, "data": 1}.get(mode, wished)
                if ranks % sample_ranks:
                    below, above = _around(ranks, sample_ranks)
                    problems.append(
                        f"mode hybrid on {ranks} ranks: the {sample_ranks} sample ranks do not "
                        f"divide them; {_either(below, above)} ranks would do, or give hybrid its "
                        "own numbers, such as modes: {hybrid: [4]}"
                    )
                    continue
                found.append(Size(kind, mode, nodes, ranks, sample_ranks))
    if problems:
        raise SettingsError(list(dict.fromkeys(problems)))
    return list(dict.fromkeys(found))


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
    problems = [
        *_problems(placed, base, samples, "posterior.samples", "sample", _samples, _sample_ranks),
        *_problems(placed, base, batch_size, "train.batch_size", "data", _batch, _data_ranks),
    ]
    if problems:
        raise SettingsError(problems)
    runs: dict[tuple[int, ...], list[Size]] = {}
    for size in placed:
        numbers = (_samples(size, samples, base)[0], _batch(size, batch_size, base)[0])
        key = (size.ranks, size.nodes, size.sample_ranks, *numbers)
        runs.setdefault(key, []).append(size)
    return [
        _point(key, own, repeat, study.steps)
        for repeat in range(1, study.repeats + 1)
        for key, own in sorted(runs.items())
    ]


def _point(key: tuple[int, ...], own: Sequence[Size], repeat: int, steps: int) -> Point:
    ranks, nodes, sample_ranks, samples, batch_size = key
    data_ranks = ranks // sample_ranks
    return Point(
        name=f"ranks{ranks}-grid{sample_ranks}x{data_ranks}-K{samples}-B{batch_size}-r{repeat}",
        series=tuple((size.kind, size.mode) for size in own),
        nodes=nodes,
        ranks=ranks,
        repeat=repeat,
        sample_ranks=sample_ranks,
        data_ranks=data_ranks,
        samples=samples,
        batch_size=batch_size,
        overrides=(
            "grid.mode=hybrid",  # of which the given S is the whole meaning
            f"grid.sample_ranks={sample_ranks}",
            f"posterior.samples={samples}",
            f"train.batch_size={batch_size}",
            f"train.steps={steps}",
            "train.epochs=0",
            "train.checkpoint_every=0",
            "train.validate_every=0",
            "train.max_time=0.0",
        ),
    )


def scaled(number: int, ranks: int, base: int) -> tuple[int, int]:
    """Return quotient and remainder of number * ranks / base."""
    return divmod(number * ranks, base)


def _samples(size: Size, number: int, base: int) -> tuple[int, int]:
    grows = size.kind == "proportional_samples"
    return scaled(number, size.ranks, base) if grows else (number, 0)


def _batch(size: Size, number: int, base: int) -> tuple[int, int]:
    return scaled(number, size.ranks, base) if size.kind == "growing_batch" else (number, 0)


def _sample_ranks(size: Size) -> int:
    return size.sample_ranks


def _data_ranks(size: Size) -> int:
    return size.data_ranks


def _problems(
    placed: Sequence[Size],
    base: int,
    number: int,
    key: str,
    axis: str,
    grown: Callable[[Size, int, int], tuple[int, int]],
    along: Callable[[Size], int],
) -> list[str]:
    """Return what does not divide along one axis, and which numbers would at every point."""

    def fits(size: Size, tried: int) -> bool:
        value, rest = grown(size, tried, base)
        return not rest and value % along(size) == 0

    wrong = [size for size in placed if not fits(size, number)]
    if not wrong:
        return []
    # A size takes multiples of one number only: n * grown / base must be one of ``along``.
    needs = [(base * along(s), grown(s, base, base)[0]) for s in placed]
    below, next_one = _around(number, math.lcm(*(n // math.gcd(n, g) for n, g in needs)))
    above = next_one if next_one <= FARTHEST * number else None
    advice = (
        f"set {key} to {_either(below, above)}, the nearest that fit every point"
        if below or above
        else "leave out some numbers of ranks"
    )
    texts = []
    for size in wrong:
        value, rest = grown(size, number, base)
        grows = f", grown from {number} on {base} ranks" if value != number or rest else ""
        shown = f"{number * size.ranks}/{base}" if rest else str(value)
        texts.append(
            f"{size.kind}, mode {size.mode}, {size.ranks} ranks: {key} = {shown}{grows}: the "
            f"{along(size)} {axis} rank(s) do not share it equally; {advice}"
        )
    return texts


def _around(number: int, step: int) -> tuple[int | None, int]:
    """Return the multiples of ``step`` below and above ``number``, none below the first."""
    below = number // step * step
    return (below or None), below + step


def _either(below: int | None, above: int | None) -> str:
    return " or ".join(str(n) for n in (below, above) if n is not None)
