"""What a study says about more ranks than it measured, and how far that can be believed.

The model (``step_model``) is fitted to the rows of ``scaling.csv``. Its error is given three ways:
on the points it was fitted to, on each point left out in turn, and on numbers of ranks held out.
The range of a prediction is that of all fits which leave out one point. What too few points cannot
tell is NaN here, null in files and ``unknown`` in texts.
"""

import json
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

from hpc_bnn.config import Settings
from hpc_bnn.losses import LOSSES
from hpc_bnn.losses.base import JointLoss
from hpc_bnn.parallel.grid import divisors
from hpc_bnn.study.collect import Row, is_fixed
from hpc_bnn.study.points import scaled
from hpc_bnn.study.step_model import FEWEST, Exchange, Host, StepModel, Work, fit, work_of

GRADIENT_BYTES = {"float32": 4, "bf16": 4, "float64": 8}


@dataclass(frozen=True)
class Measured:
    """The distinct points of a table, and what is known of the machine."""

    works: tuple[Work, ...]
    times: tuple[float, ...]
    host: Host
    exchanges: tuple[Exchange, ...] = ()
    known: dict[str, float] = field(default_factory=dict)

    def fit(self, keep: Callable[[Work], bool] = lambda work: True) -> StepModel:
        """Fit the points that are kept."""
        points = {w: t for w, t in zip(self.works, self.times, strict=True) if keep(w)}
        return fit(
            list(points),
            list(points.values()),
            self.host,
            exchanges=self.exchanges,
            known=self.known,
        )


@dataclass(frozen=True)
class Errors:
    """Relative errors of predictions against measured step times; NaN without any."""

    median: float
    largest: float
    worst: str
    count: int

    @property
    def brief(self) -> str:
        """The median as text."""
        return f"{self.median:.0%} (median)" if self.count else "unknown"

    def __str__(self) -> str:
        """Name median, largest and where that is."""
        if not self.count:
            return "unknown: too few points"
        where = f" ({self.worst})" if self.worst else ""
        return f"median {self.median:.1%}, largest {self.largest:.1%}{where}, {self.count} points"


@dataclass(frozen=True)
class Projected:
    """The best grid at one number of ranks, and its predicted step time with its range, which is
    NaN where no point could be left out.
    """

    kind: str
    ranks: int
    nodes: int
    sample_ranks: int
    data_ranks: int
    samples: int
    batch_size: int
    step_time_s: float
    low_s: float
    high_s: float
    efficiency: float
    parts_s: dict[str, float]


def measured(
    rows: Sequence[Row],
    settings: Settings,
    *,
    exchanges: Sequence[Exchange] = (),
    known: dict[str, float] | None = None,
) -> Measured:
    """Return the points of a table; a run that belongs to several series counts once."""
    times = {work_of(row): float(row["step_time_s"]) for row in rows}
    first = rows[0] if rows else {}
    size = GRADIENT_BYTES[settings.train.precision] * float(first.get("parameters") or 0)
    if settings.train.compression == "fp16":
        size /= 2
    loss = LOSSES[settings.loss.name](**settings.loss.options)
    joint = isinstance(loss, JointLoss) and settings.loss.exact
    cores = float(first.get("cores") or math.inf)
    host = Host(cores, int(first.get("threads") or 1), size or 1.0, joint)
    return Measured(tuple(times), tuple(times.values()), host, tuple(exchanges), dict(known or {}))


def errors(models: Sequence[StepModel], works: Sequence[Work], times: Sequence[float]) -> Errors:
    """Compare the prediction of each model with a measured time."""
    relative = [
        (abs(model.predict(work) / time - 1), work)
        for model, work, time in zip(models, works, times, strict=True)
    ]
    if not relative:
        return Errors(math.nan, math.nan, "", 0)
    largest, worst = max(relative, key=lambda pair: pair[0])
    name = f"{worst.sample_ranks} x {worst.data_ranks}, K {worst.samples}, B {worst.batch_size}"
    return Errors(median(size for size, _ in relative), largest, name, len(relative))


def leave_one_out(points: Measured) -> tuple[Errors, list[StepModel]]:
    """Predict each point from all others; return the errors and the fits.

    There are none where the others are too few.
    """
    works = points.works if len(points.works) > FEWEST else ()
    fits = [points.fit(partial(operator.ne, work)) for work in works]
    return errors(fits, works, points.times[: len(works)]), fits


def hold_out(points: Measured, ranks: Sequence[int]) -> Errors:
    """Predict the points on ``ranks`` ranks from the others.

    Raises
    ------
    ValueError
        If no point has so many ranks, or too few others are left.
    """
    counts = {work.ranks for work in points.works}
    unknown = sorted(set(ranks) - counts)
    if unknown:
        raise ValueError(f"--hold-out {unknown}: not measured; there are {sorted(counts)} ranks")
    model = points.fit(lambda work: work.ranks not in ranks)
    held = {w: t for w, t in zip(points.works, points.times, strict=True) if w.ranks in ranks}
    return errors([model] * len(held), list(held), list(held.values()))


def project(
    rows: Sequence[Row],
    model: StepModel,
    others: Sequence[StepModel],
    *,
    ranks_per_node: int,
    max_ranks: int,
) -> list[Projected]:
    """Return the best grid for each kind and doubling of ranks, as far as K and B can be shared."""
    projected: list[Projected] = []
    for kind, base in _smallest(rows).items():
        first: float | None = None
        for ranks in _doublings(base["ranks"], max_ranks):
            works = list(candidates(kind, base, ranks, ranks_per_node))
            if not works:
                continue
            best = min(works, key=model.predict)
            time = model.predict(best)
            first = time if first is None else first
            growth = ranks / base["ranks"] if is_fixed(kind) else 1.0
            spread = [time, *(other.predict(best) for other in others)] if others else [math.nan]
            projected.append(
                Projected(
                    kind, ranks, best.nodes, best.sample_ranks, best.data_ranks, best.samples,
                    best.batch_size, time, min(spread), max(spread), first / time / growth,
                    model.parts(best),
                )
            )  # fmt: skip
    return projected


def candidates(kind: str, base: Row, ranks: int, ranks_per_node: int) -> Iterator[Work]:
    """Yield the grids of so many ranks that share K and B equally."""
    samples, batch, rest = base["samples"], base["batch_size"], 0
    if kind == "proportional_samples":
        samples, rest = scaled(samples, ranks, base["ranks"])
    if kind == "growing_batch":
        batch, rest = scaled(batch, ranks, base["ranks"])
    nodes, uneven = divmod(ranks, min(ranks, ranks_per_node))
    if rest or uneven:
        return
    for sample_ranks in divisors(ranks):
        if samples % sample_ranks == 0 and batch % (ranks // sample_ranks) == 0:
            yield Work(nodes, sample_ranks, ranks // sample_ranks, samples, batch)


def overtaking(
    rows: Sequence[Row], model: StepModel, *, ranks_per_node: int, max_ranks: int
) -> list[str]:
    """Say for each kind where data parallelism overtakes sampling parallelism, if anywhere."""
    texts = []
    for kind, base in _smallest(rows).items():
        both, last_sample = [], 0
        for ranks in _doublings(base["ranks"], max_ranks):
            if ranks == 1:
                continue
            works = {w.sample_ranks: w for w in candidates(kind, base, ranks, ranks_per_node)}
            last_sample = ranks if ranks in works else last_sample
            if ranks in works and 1 in works:
                both.append((ranks, model.predict(works[1]) < model.predict(works[ranks])))
        over = [ranks for ranks, data_wins in both if data_wins]
        if not both:
            text = "no number of ranks has both a pure sample and a pure data grid"
        elif over:
            text = f"data parallelism overtakes sampling parallelism at {over[0]} ranks"
        else:
            text = (
                "data parallelism does not overtake sampling parallelism, compared up to "
                f"{both[-1][0]} ranks"
            )
        if last_sample and last_sample * 2 <= max_ranks:
            text += f"; pure sampling ends at {last_sample} ranks, where K has no more divisors"
        texts.append(f"{kind}: {text}")
    return texts


def read_exchanges(path: Path) -> list[Exchange]:
    """Return the exchanges that ``--measure`` has stored, if any."""
    if not path.is_file():
        return []
    content = json.loads(path.read_text(encoding="utf-8"))
    return [Exchange(**entry) for entry in content["exchanges"]]


def usual_ranks_per_node(points: Measured) -> int:
    """Return the most ranks on a node that were measured without sharing cores."""
    places = points.host.cores / points.host.threads
    counts = {work.ranks_per_node for work in points.works}
    return int(max([n for n in counts if n <= places] or counts))


def _smallest(rows: Sequence[Row]) -> dict[str, Row]:
    """Return the smallest point of each kind; fixed_batch is the same problem as fixed_samples."""
    smallest: dict[str, Row] = {}
    for row in rows:
        if row["ranks"] < smallest.setdefault(row["kind"], row)["ranks"]:
            smallest[row["kind"]] = row
    if "fixed_samples" in smallest:
        smallest.pop("fixed_batch", None)
    return smallest


def _doublings(first: int, last: int) -> Iterator[int]:
    while first <= last:
        yield first
        first *= 2
