"""The commands of ``hpc-bnn scaling``: each returns the lines to print and the exit status."""

import argparse
import shlex
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from hpc_bnn.files import write_json
from hpc_bnn.group import Group
from hpc_bnn.study.collect import collect, format_collection, read_csv, write_csv
from hpc_bnn.study.doctor import measure
from hpc_bnn.study.launch import run_plan
from hpc_bnn.study.outcomes import read_outcomes
from hpc_bnn.study.plan_file import make_plan, read_plan, table, write_plan
from hpc_bnn.study.projection import (
    errors,
    hold_out,
    leave_one_out,
    measured,
    overtaking,
    project,
    read_exchanges,
    usual_ranks_per_node,
)
from hpc_bnn.study.projection_report import (
    assumptions,
    coefficients,
    ends,
    projection_table,
    record,
    warnings,
)
from hpc_bnn.study.step_model import Exchange

Answer = tuple[list[str], int]


def _plan(options: argparse.Namespace, all_ranks: Group) -> Answer:
    plan, settings = make_plan(options.study, options.folder)
    write_plan(plan, settings)
    advice = (
        f"run them with hpc-bnn scaling run {options.folder}, "
        f"or with scaling.sh --plan {options.folder} on a cluster"
    )
    return [*table(plan), advice], 0


def _run(options: argparse.Namespace, all_ranks: Group) -> Answer:
    plan = read_plan(options.folder)
    failed = run_plan(plan, launcher=shlex.split(options.launcher))
    done = len(plan.points) - len(failed)
    lines = [f"{options.folder}: {done} of {len(plan.points)} points are finished"]
    return [*lines, *(f"failed: {name}" for name in failed)], 1 if failed else 0


def _collect(options: argparse.Namespace, all_ranks: Group) -> Answer:
    plan = read_plan(options.folder)
    collection = collect(plan, allow_mixed=options.allow_mixed)
    write_csv(plan.csv, collection.rows)
    lines = [*format_collection(collection), f"{plan.csv}: {len(collection.rows)} rows"]
    return lines, 1 if collection.absent else 0


def _plot(options: argparse.Namespace, all_ranks: Group) -> Answer:
    # Here, not above: matplotlib takes half a second that no other command needs, on every rank.
    from hpc_bnn.study.scaling_plots import plot_study

    plan = read_plan(options.folder)
    rows, outcomes = read_csv(plan.csv), read_outcomes(plan)
    return [f"{path}" for path in plot_study(rows, outcomes, plan.folder)], 0


def _project(options: argparse.Namespace, all_ranks: Group) -> Answer:
    """Collective with ``--measure``: rank 0 does the rest."""
    stored = options.folder / "exchanges.json"
    if options.measure:
        _measure(all_ranks, stored)
    return all_ranks.on_first(lambda: _projection(options, stored), name="projection")


def _projection(options: argparse.Namespace, stored: Path) -> Answer:
    from hpc_bnn.study.scaling_plots import plot_projection  # as in _plot

    plan = read_plan(options.folder)
    rows = read_csv(plan.csv)
    if not rows:
        raise ValueError(f"{plan.csv}: holds no rows; run and collect points first")
    points = measured(
        rows, plan.settings(), exchanges=read_exchanges(stored), known=_between(options)
    )
    model = points.fit()
    fitted = errors([model] * len(points.works), points.works, points.times)
    left_out, fits = leave_one_out(points)
    per_node = options.ranks_per_node or usual_ranks_per_node(points)
    sizes = {"ranks_per_node": per_node, "max_ranks": options.max_ranks}
    projected = project(rows, model, fits, **sizes)
    crossing = overtaking(rows, model, **sizes)
    assumed = assumptions(points, model, per_node)
    errors_of = {"of the fit": fitted, "leaving one point out": left_out}
    if options.hold_out:
        ranks = ", ".join(map(str, options.hold_out))
        errors_of[f"holding out {ranks} ranks"] = hold_out(points, options.hold_out)
    doubts = warnings(rows, model, left_out)
    content = record(
        model,
        projected,
        errors={name: asdict(found) for name, found in errors_of.items()},
        overtaking=crossing,
        assumptions=assumed,
        warnings=doubts,
        **sizes,
    )
    write_json(plan.folder / "projection.json", content)
    picture = plot_projection(
        projected,
        rows,
        plan.folder / "projection.png",
        title=f"{per_node} ranks a node; error leaving one out: {left_out.brief}",
    )
    return [
        *projection_table(projected),
        *ends(projected, options.max_ranks),
        *crossing,
        *(f"error {name}: {found}" for name, found in errors_of.items()),
        *coefficients(model),
        *(f"assumed: {text}" for text in assumed),
        *(f"warning: {text}" for text in doubts),
        f"{picture}",
    ], 0


def _measure(all_ranks: Group, stored: Path) -> None:
    """Collective: time exchanges and store them beside the plan, those of this size anew."""
    chosen = all_ranks.on_first(lambda: read_plan(stored.parent).settings(), name="plan")
    if all_ranks.size == 1:
        raise ValueError(
            "--measure times exchanges: start it on several ranks, such as mpirun -n 2 python -m "
            f"mpi4py -m hpc_bnn scaling project {stored.parent} --measure"
        )
    world, seconds = measure(all_ranks, chosen.grid.engine)
    timed = [Exchange(all_ranks.size, world.num_nodes, n, time) for n, time in seconds.items()]

    def store() -> None:
        place = (all_ranks.size, world.num_nodes)
        others = [e for e in read_exchanges(stored) if (e.ranks, e.nodes) != place]
        write_json(stored, {"exchanges": [asdict(exchange) for exchange in [*others, *timed]]})

    all_ranks.on_first(store, name="exchanges")


def _between(options: argparse.Namespace) -> dict[str, float]:
    """Return the coefficients between nodes that the user gives."""
    coefficients = {}
    if options.latency_us is not None:
        coefficients["latency_between"] = options.latency_us * 1e-6
    if options.bandwidth_gbs is not None:
        coefficients["payload_between"] = 1e-9 / options.bandwidth_gbs
    return coefficients


SCALING: dict[str, Callable[[argparse.Namespace, Group], Answer]] = {
    "scaling plan": _plan,
    "scaling run": _run,
    "scaling collect": _collect,
    "scaling plot": _plot,
    "scaling project": _project,
}
