"""A projection as text: the table, the model, and what is taken for granted."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hpc_bnn.study.collect import Row
from hpc_bnn.study.projection import Errors, Measured, Projected
from hpc_bnn.study.step_model import CONTENTIONS, StepModel

GOOD_ERROR = 0.15


def ends(projected: Sequence[Projected], max_ranks: int) -> list[str]:
    """Say for each kind where its problem is too small for more ranks."""
    last = {entry.kind: entry.ranks for entry in projected}
    return [
        f"{kind}: beyond {ranks} ranks no S x D shares K and B equally (in doublings of ranks)"
        for kind, ranks in last.items()
        if 2 * ranks <= max_ranks
    ]


def warnings(rows: Sequence[Row], model: StepModel, left_out: Errors) -> list[str]:
    """Return what speaks against believing a projection."""
    texts = []
    noisy = [row for row in rows if "noisy" in str(row["flags"])]
    if noisy:
        texts.append(f"{len(noisy)} of {len(rows)} rows are noisy: measure on a quiet machine")
    if not left_out.count:
        texts.append("too few points to leave one out: the error of this projection is unknown")
    elif left_out.median > GOOD_ERROR:
        texts.append(
            f"points left out are predicted with a median error of {left_out.median:.0%}, above "
            f"{GOOD_ERROR:.0%}: the model does not describe this study"
        )
    if model.contention >= CONTENTIONS[-1]:
        texts.append("contention is at its limit: two ranks are slower than one after the other")
    return texts


def assumptions(points: Measured, model: StepModel, ranks_per_node: int) -> list[str]:
    """Return what the projection takes for granted."""
    texts = []
    if not any(work.nodes > 1 for work in points.works):
        if points.known:
            texts.append("between nodes: as given with --latency-us and --bandwidth-gbs")
        elif any(exchange.nodes > 1 for exchange in points.exchanges):
            texts.append("between nodes: as timed exchanges say")
        else:
            texts.append(
                "one node was measured: exchanges between nodes are assumed to cost what they "
                "cost within it (else give --latency-us and --bandwidth-gbs)"
            )
    widest = max(work.ranks_per_node for work in points.works)
    if ranks_per_node > widest:
        texts.append(f"{ranks_per_node} ranks a node share it as the fit to {widest:g} says")
    if widest * points.host.threads > points.host.cores:
        texts.append(
            f"points of more than {points.host.cores:g} ranks a node share cores: their step is "
            f"slowed by ranks / {points.host.cores:g}, rounded up"
        )
    if model.contention:
        texts.append(
            f"each further rank on a node with a core left slows it by {model.contention:.0%}"
        )
    if model.undetermined:
        texts.append(
            f"the points do not tell apart: {', '.join(model.undetermined)}; measure other kinds, "
            "modes or ranks, or exchanges (--measure)"
        )
    return texts


def record(model: StepModel, projected: Sequence[Projected], **more: Any) -> dict[str, Any]:
    """Return what ``projection.json`` holds."""
    return {
        "coefficients_s": model.coefficients,
        "contention": model.contention,
        "undetermined": list(model.undetermined),
        "host": asdict(model.host),
        **more,
        "projected": [asdict(entry) for entry in projected],
    }


def projection_table(projected: Sequence[Projected]) -> list[str]:
    """Return the projection as a table."""
    head = f"{'kind':21}{'ranks':>5} {'nodes':>5} {'best S x D':>12} {'K':>6} {'B':>7} "
    lines = [head + f"{'step [ms]':>10} {'range [ms]':>19} {'efficiency':>10}"]
    for p in projected:
        grid = f"{p.sample_ranks} x {p.data_ranks}"
        spread = f"{p.low_s * 1e3:.2f} to {p.high_s * 1e3:.2f}"
        spread = spread if math.isfinite(p.low_s) else "unknown"
        lines.append(
            f"{p.kind:21}{p.ranks:5d} {p.nodes:5d} {grid:>12} {p.samples:6d} {p.batch_size:7d} "
            f"{p.step_time_s * 1e3:10.2f} {spread:>19} {p.efficiency:10.3f}"
        )
    return lines


def coefficients(model: StepModel) -> list[str]:
    """Return the fitted model as lines."""
    units = {
        "fixed": (1e3, "ms a step (optimizer, KL, what no rank saves)"),
        "examples": (1e6, "us an own example"),
        "draw": (1e3, "ms an own sample"),
        "compute": (1e6, "us an own sample and example"),
        "latency": (1e3, "ms a doubling of ranks in a node"),
        "payload": (1e9, "s a GB and rank in a node"),
        "latency_between": (1e3, "ms a doubling of nodes"),
        "payload_between": (1e9, "s a GB and node"),
        "exchange": (1e6, "us a sample and example exchanged"),
    }
    return [
        f"model: {name:16s} {model.coefficients.get(name, 0.0) * scale:10.4g} {unit}"
        for name, (scale, unit) in units.items()
        if name in model.coefficients
    ]
