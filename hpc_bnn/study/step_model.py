"""A model of the time of one step, fitted to the points of a study.

    T = f(p) * (fixed + examples * B/D + draw * K/S + compute * K/S * B/D)
        + latency * log2(p) + payload * G * 2 (p - 1) / p
        + latency_between * log2(N) + payload_between * G * 2 (N - 1) / N
        + exchange * K * B/D * (S - 1) / S           (losses that join the samples only)

    f(p) = ceil(p t / C) * (1 + contention * (min(p, C / t) - 1))

p ranks on each of N nodes, with t threads on C cores; G bytes of gradients. ``fixed`` holds what
every rank does once a step (optimizer and KL, proportional to the parameters, which a study does
not vary); ``draw`` is proportional to them, too. Communication is what backward does not hide, as
in the alpha-beta model of a ring or recursive all-reduce (Thakur, Rabenseifner, Gropp 2005,
doi:10.1177/1094342005051521). f is the model's word for ranks that share a node: cores run out, and
a step waits for the rank whose core has most of them; memory bandwidth runs out before. All
coefficients are fitted to relative errors and are not negative.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

COMPUTE = ("fixed", "examples", "draw", "compute")
WITHIN = ("latency", "payload")
BETWEEN = ("latency_between", "payload_between")
FEWEST = 3  # points of a fit
# Contention of two ranks is at most that of one core for both.
CONTENTIONS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class Work:
    """What determines the time of a step: the grid, where it stands, and what it does."""

    nodes: int
    sample_ranks: int
    data_ranks: int
    samples: int
    batch_size: int

    @property
    def ranks(self) -> int:
        return self.sample_ranks * self.data_ranks

    @property
    def ranks_per_node(self) -> float:
        return self.ranks / self.nodes


@dataclass(frozen=True)
class Exchange:
    """A timed all-reduce of ``doctor``: bytes over ranks on one node or several."""

    ranks: int
    nodes: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Host:
    """What is known of the study: cores of a node, threads of a rank, gradient bytes, the loss."""

    cores: float = math.inf
    threads: int = 1
    gradient_bytes: float = 1.0
    joint: bool = False

    def slowdown(self, ranks: float, contention: float) -> float:
        """Return f(p)."""
        places = self.cores / self.threads
        beside = min(ranks, max(1.0, places)) - 1
        return max(1, math.ceil(ranks / places)) * (1 + contention * beside)


@dataclass(frozen=True)
class StepModel:
    """The fitted model.

    Attributes
    ----------
    coefficients
        Seconds: a step (fixed), an example, a sample, a sample and example, a doubling of ranks,
        a byte, a sample and example exchanged.
    undetermined
        Terms that the points do not tell apart from others; one of many possible values.
    """

    host: Host
    coefficients: dict[str, float]
    contention: float
    undetermined: tuple[str, ...] = ()

    def parts(self, work: Work) -> dict[str, float]:
        """Return the seconds of each term."""
        columns = terms(work, self.host, self.contention)
        return {name: self.coefficients.get(name, 0.0) * columns[name] for name in columns}

    def predict(self, work: Work) -> float:
        """Return the seconds of a step."""
        return sum(self.parts(work).values())


def terms(work: Work, host: Host, contention: float) -> dict[str, float]:
    """Return what each coefficient is multiplied by."""
    samples = work.samples / work.sample_ranks  # of one rank, as the examples
    examples = work.batch_size / work.data_ranks
    f = host.slowdown(work.ranks_per_node, contention)
    near, far = work.ranks_per_node, work.nodes
    shared = work.samples * examples * (1 - 1 / work.sample_ranks)
    return {
        "fixed": f,
        "examples": f * examples,
        "draw": f * samples,
        "compute": f * samples * examples,
        **_all_reduce(WITHIN, near, host.gradient_bytes),
        **_all_reduce(BETWEEN, far, host.gradient_bytes),
        "exchange": shared if host.joint else 0.0,
    }


def fit(
    works: Sequence[Work],
    times: Sequence[float],
    host: Host,
    *,
    exchanges: Sequence[Exchange] = (),
    known: dict[str, float] | None = None,
) -> StepModel:
    """Fit the model to measured step times in seconds.

    known: coefficients that are not fitted. Terms between nodes that neither points nor exchanges
    cover are those within a node, unless known.

    Raises
    ------
    ValueError
        If there are fewer than ``FEWEST`` points.
    """
    if len(works) < FEWEST:
        raise ValueError(
            f"{len(works)} point(s): the model needs at least {FEWEST}; measure more of them"
        )
    from scipy.optimize import nnls  # type: ignore[import-untyped]  # here: used by nothing else

    known = known or {}
    seconds = np.array([*times, *(exchange.seconds for exchange in exchanges)])
    fits: list[tuple[float, float, dict[str, float], Array]] = []
    crowds = {work.ranks_per_node for work in works}
    for contention in CONTENTIONS if len(crowds) > 1 else CONTENTIONS[:1]:
        rows = [terms(work, host, float(contention)) for work in works]
        rows += [_exchange_terms(exchange) for exchange in exchanges]
        names = [n for n in rows[0] if n not in known and any(row[n] for row in rows)]
        rest = seconds - np.array([sum(known[n] * row[n] for n in known) for row in rows])
        matrix = np.array([[row[n] for n in names] for row in rows]) / seconds[:, None]
        norms = np.linalg.norm(matrix, axis=0)  # columns differ by a factor of 1e9
        x, error = nnls(matrix / norms, rest / seconds)
        fitted = dict(zip(names, (x / norms).tolist(), strict=True))
        if not fits or error < fits[-1][0] * (1 - 1e-9):
            fits.append((float(error), float(contention), fitted, matrix / norms))
    _, contention, fitted, matrix = fits[-1]
    coefficients = {**fitted, **known}
    for near, far in zip(WITHIN, BETWEEN, strict=True):
        coefficients.setdefault(far, coefficients.get(near, 0.0))
    undetermined = tuple(_undetermined(matrix, list(fitted)))
    return StepModel(host, coefficients, contention, undetermined)


def _exchange_terms(exchange: Exchange) -> dict[str, float]:
    """Return the terms of an all-reduce alone."""
    near = exchange.ranks / exchange.nodes
    return {
        **dict.fromkeys((*COMPUTE, "exchange"), 0.0),
        **_all_reduce(WITHIN, near, exchange.bytes),
        **_all_reduce(BETWEEN, exchange.nodes, exchange.bytes),
    }


def _all_reduce(names: tuple[str, str], ranks: float, size: float) -> dict[str, float]:
    return {names[0]: math.log2(ranks), names[1]: size * 2 * (ranks - 1) / ranks}


def _undetermined(matrix: Array, names: Sequence[str]) -> list[str]:
    """Return the columns, of norm 1, that are part of a combination which changes no time."""
    _, sizes, axes = np.linalg.svd(matrix)
    sizes = np.concatenate([sizes, np.zeros(len(names) - len(sizes))])
    null = axes[sizes < 1e-6 * sizes[0]]
    return [
        name
        for name, column in zip(names, null.T, strict=True)
        if np.abs(column).max(initial=0) > 0.1
    ]


def work_of(row: dict[str, Any]) -> Work:
    """Return the work of a row of ``scaling.csv``."""
    return Work(
        row["nodes"], row["sample_ranks"], row["data_ranks"], row["samples"], row["batch_size"]
    )
