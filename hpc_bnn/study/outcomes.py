"""What became of each point of a plan, and whether the points may be compared.

Times of two machines or two versions in one table are the classic wrong scaling plot: such mixtures
are refused, or marked where the user asks for that.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
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
SHOWN = 4  # points that a mixture names


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


@dataclass(frozen=True)
class Mixture:
    """Points that differ from the others in something that must be the same.

    Attributes
    ----------
    what
        ``versions``, ``hosts``, ``device``, ``settings`` or ``grid``.
    usual
        What most points say.
    others
        What the others say, by the name of the point.
    """

    what: str
    usual: str
    others: dict[str, str]

    def __str__(self) -> str:
        """Name who differs, in a sentence."""
        names = list(self.others)
        shown = "; ".join(f"{name}: {self.others[name]}" for name in names[:SHOWN])
        more = f"; and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        advice = "; submit all points with one --nodelist, or mark them"
        return (
            f"mixed {self.what}: most points have {self.usual}, but {shown}{more}"
            f"{advice if self.what == 'hosts' else ''}"
        )


def read_outcomes(plan: Plan) -> list[Outcome]:
    """Read every point of a plan, in its order."""
    settings = plan.settings()
    return [_read(plan, point, settings) for point in plan.points]


def parameters(plan: Plan, outcomes: Sequence[Outcome]) -> int | None:
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


def mixtures(outcomes: Sequence[Outcome]) -> list[Mixture]:
    """Return in what finished points differ that the plan does not vary."""
    runs = [outcome for outcome in outcomes if outcome.state == "finished"]
    differences = [
        _unlike_most("versions", {run.point.name: _versions(run) for run in runs}),
        _unlike_most("device", {run.point.name: run.summary.get("device") or "" for run in runs}),
        _other_hosts(runs),
        ("settings", "those of the plan", {r.point.name: ", ".join(r.changed) for r in runs}),
        ("grid", "that of the plan", {run.point.name: _other_grid(run) for run in runs}),
    ]
    mixed = [
        Mixture(what, usual, {name: text for name, text in others.items() if text})
        for what, usual, others in differences
    ]
    return [mixture for mixture in mixed if mixture.others]


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
    times = [row["step_time_s"] + (row.get("data_wait_time_s") or 0.0) for row in rows]
    timed = times[plan.study.warmup_steps :]
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
        losses=_losses(rows, times),
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


def _losses(
    rows: Sequence[dict[str, Any]], times: Sequence[float]
) -> tuple[tuple[int, float, float, float], ...]:
    seconds, losses = 0.0, []
    for row, time in zip(rows, times, strict=True):
        seconds += time
        loss = math.nan if row.get("loss") is None else float(row["loss"])
        losses.append((int(row["step"]), float(row.get("epoch") or 0.0), loss, seconds))
    return tuple(losses)


def _changed(plan: Plan, point: Point, settings: Settings) -> tuple[str, ...]:
    """Return the settings that the plan does not explain."""
    try:
        run = plan.run_folder(point).settings()
    except (OSError, SettingsError) as error:
        return (f"config.yaml cannot be read ({' '.join(str(error).split())})",)
    differences = difference(resolved(settings), resolved(run))
    pairs = {k: pair for k, pair in differences.items() if k not in VARIED} | {
        "grid.sample_ranks": (point.sample_ranks, run.grid.sample_ranks),
        "posterior.samples": (point.samples, run.posterior.samples),
        "train.batch_size": (point.batch_size, run.train.batch_size),
        "train.steps": (plan.study.steps, run.train.steps),
    }
    return tuple(
        f"{key} = {new!r} instead of {old!r}" for key, (old, new) in pairs.items() if new != old
    )


def _versions(outcome: Outcome) -> str:
    versions = outcome.summary.get("versions") or {}
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) or "none"


def _unlike_most(what: str, texts: Mapping[str, str]) -> tuple[str, str, dict[str, str]]:
    usual = Counter(texts.values()).most_common(1)[0][0] if texts else ""
    others = {name: text or "none" for name, text in texts.items() if text != usual}
    return what, usual or "none", others


def _other_hosts(runs: Sequence[Outcome]) -> tuple[str, str, dict[str, str]]:
    """Small points may use a part of the nodes of the largest one, but no others."""
    hosts = {run.point.name: frozenset(run.summary.get("hosts") or ()) for run in runs}
    widest = max(map(len, hosts.values()), default=0)
    whole = Counter(names for names in hosts.values() if len(names) == widest).most_common(1)
    usual = whole[0][0] if whole else frozenset()
    others = {
        name: ", ".join(sorted(names)) or "none"
        for name, names in hosts.items()
        if usual and (not names or not names <= usual)
    }
    return "hosts", ", ".join(sorted(usual)), others


def _other_grid(outcome: Outcome) -> str:
    grid, point = outcome.summary.get("grid") or {}, outcome.point
    placed = [grid.get(key) for key in ("sample_ranks", "data_ranks", "nodes")]
    planned = [point.sample_ranks, point.data_ranks, point.nodes]
    if placed == planned:
        return ""
    text = "{} x {} on {} node(s) instead of {} x {} on {}"
    return text.format(*placed, *planned)
