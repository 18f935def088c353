"""What became of each point of a plan: read from its run folder, with everything that is wrong."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hpc_bnn.config import Settings, SettingsError, difference
from hpc_bnn.study.launch import read_attempt
from hpc_bnn.study.plan_file import VARIED, Plan
from hpc_bnn.study.points import Point
from hpc_bnn.train.run.build import resolved
from hpc_bnn.train.run.checkpoint import CheckpointError, available, load
from hpc_bnn.train.run.log import read_metrics

State = Literal["finished", "failed", "unfinished", "missing"]


@dataclass(frozen=True)
class Outcome:
    """One run: what it measured, or why it did not.

    Attributes
    ----------
    why
        What is wrong, for a point that is not finished.
    step_times_s
        Time from step to step on world rank 0 (the step and the wait for its batch), without the
        warm-up. Every step ends in an exchange of all ranks, so it is that of the slowest.
    losses
        (step, epoch, loss, seconds since the first step) of every step.
    flags
        What a reader of the numbers must know: ``nan_loss``, ``truncated``, ``restarted``,
        ``oversubscribed``.
    cores, threads
        Cores of the host and threads of a rank, where ``scaling run`` started it.
    changed
        Settings in which the run differs from its plan, as texts.
    """

    point: Point
    state: State
    why: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    step_times_s: tuple[float, ...] = ()
    losses: tuple[tuple[int, float, float, float], ...] = ()
    flags: frozenset[str] = frozenset()
    cores: int | None = None
    threads: int | None = None
    changed: tuple[str, ...] = ()


def read_outcomes(plan: Plan) -> list[Outcome]:
    """Read every point of a plan, in its order."""
    settings = plan.settings()
    return [_read(plan, point, settings) for point in plan.points]


def parameters(plan: Plan, outcomes: list[Outcome]) -> int | None:
    """Return the number of trained parameters (random weights count twice: mean and deviation).

    From a checkpoint of a finished run; None where there is none to read.
    """
    for outcome in outcomes:
        for path in available(plan.run_folder(outcome.point).checkpoints)[-1:]:
            try:
                state = load(path).optimizer["state"].values()
            except (CheckpointError, KeyError, AttributeError):
                continue
            return sum(int(entry["exp_avg"].numel()) for entry in state)
    return None


def _read(plan: Plan, point: Point, settings: Settings) -> Outcome:
    folder = plan.run_folder(point)
    attempt = read_attempt(plan.attempt(point))
    summary = _summary(folder.summary)
    if not summary:
        if attempt is not None and attempt.status != 0:
            ended = "timed out" if attempt.status is None else f"status {attempt.status}"
            return Outcome(point, "failed", f"{ended}, output in {plan.log(point)}")
        if folder.config.is_file() or folder.metrics.is_file():
            return Outcome(point, "unfinished", f"{folder.path} holds no readable summary.json")
        return Outcome(point, "missing", f"{folder.path} holds no run")
    rows = [row for row in read_metrics(folder.metrics) if "step_time_s" in row]
    timed = [
        row["step_time_s"] + (row.get("data_wait_time_s") or 0.0)
        for row in rows[plan.study.warmup_steps :]
    ]
    if summary.get("steps") != plan.study.steps or not timed:
        why = f"{summary.get('steps')} of {plan.study.steps} steps, {len(timed)} of them timed"
        return Outcome(point, "unfinished", why)
    flags = {
        "nan_loss": summary.get("final_loss") is None or any(r.get("loss") is None for r in rows),
        "truncated": len(rows) < plan.study.steps,
        "restarted": bool(summary.get("restarts")),
        "oversubscribed": attempt is not None and attempt.oversubscribed,
    }
    return Outcome(
        point,
        "finished",
        summary=summary,
        step_times_s=tuple(timed),
        losses=_losses(rows),
        flags=frozenset(name for name, is_so in flags.items() if is_so),
        cores=attempt.cores if attempt else None,
        threads=attempt.threads if attempt else None,
        changed=_changed(plan, point, settings),
    )


def _summary(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _losses(rows: list[dict[str, Any]]) -> tuple[tuple[int, float, float, float], ...]:
    seconds, found = 0.0, []
    for row in rows:
        seconds += row["step_time_s"] + (row.get("data_wait_time_s") or 0.0)
        loss = math.nan if row.get("loss") is None else float(row["loss"])
        found.append((int(row["step"]), float(row.get("epoch") or 0.0), loss, seconds))
    return tuple(found)


def _changed(plan: Plan, point: Point, settings: Settings) -> tuple[str, ...]:
    """Return the settings that the plan does not explain."""
    try:
        own = plan.run_folder(point).settings()
    except (OSError, SettingsError) as error:
        return (f"config.yaml cannot be read ({' '.join(str(error).split())})",)
    texts = [
        f"{key} = {new!r} instead of {old!r}"
        for key, (old, new) in difference(resolved(settings), resolved(own)).items()
        if key not in VARIED
    ]
    expected = {
        "grid.sample_ranks": (own.grid.sample_ranks, point.sample_ranks),
        "posterior.samples": (own.posterior.samples, point.samples),
        "train.batch_size": (own.train.batch_size, point.batch_size),
        "train.steps": (own.train.steps, plan.study.steps),
    }
    for key, (got, planned) in expected.items():
        if got != planned:
            texts.append(f"{key} = {got!r} instead of {planned!r}")
    return tuple(texts)
