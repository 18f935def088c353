"""The commands of ``hpc-bnn scaling``: each returns the lines to print and the exit status."""

import argparse
import shlex
from collections.abc import Callable

from hpc_bnn.parallel.comms import Channel
from hpc_bnn.study.collect import collect, told, write_csv
from hpc_bnn.study.launch import run_plan
from hpc_bnn.study.plan_file import make_plan, read_plan, table, write_plan

Answer = tuple[list[str], int]


def _plan(options: argparse.Namespace, channel: Channel) -> Answer:
    plan, settings = make_plan(options.study, options.folder)
    write_plan(plan, settings)
    here = f"hpc-bnn scaling run {options.folder}"
    there = f"scaling.sh --plan {options.folder}"
    return [*table(plan), f"run them with {here}, or with {there} on a cluster"], 0


def _run(options: argparse.Namespace, channel: Channel) -> Answer:
    plan = read_plan(options.folder)
    failed = run_plan(plan, launcher=shlex.split(options.launcher))
    done = len(plan.points) - len(failed)
    lines = [f"{options.folder}: {done} of {len(plan.points)} points are finished"]
    return [*lines, *(f"failed: {name}" for name in failed)], 1 if failed else 0


def _collect(options: argparse.Namespace, channel: Channel) -> Answer:
    plan = read_plan(options.folder)
    collection = collect(plan, allow_mixed=options.allow_mixed)
    write_csv(plan.csv, collection.rows)
    lines = [*told(collection), f"{plan.csv}: {len(collection.rows)} rows"]
    return lines, 1 if collection.absent else 0


SCALING: dict[str, Callable[[argparse.Namespace, Channel], Answer]] = {
    "scaling plan": _plan,
    "scaling run": _run,
    "scaling collect": _collect,
}
