"""Studies whose runs were never made: what each run folder holds is a function of its point."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from hpc_bnn.config import dump_settings, load_settings
from hpc_bnn.study.plan_file import Plan, make_plan, read_plan, write_plan
from hpc_bnn.study.points import Point
from hpc_bnn.train.run.build import resolved

SETTINGS: dict[str, Any] = {
    "seed": 3,
    "posterior": {"samples": 12},
    "loss": {"name": "gaussian_nll", "variance": "predicted"},
    "model": {"name": "mlp", "hidden": [8]},
    "data": {"name": "synthetic_series", "length": 300, "history": 12, "horizon": 4},
    "train": {"steps": 6, "batch_size": 12, "device": "cpu"},
}
STUDY: dict[str, Any] = {
    "config": "settings.yaml",
    "kinds": ["fixed_samples", "proportional_samples"],
    "modes": ["sample", "data"],
    "ranks": [1, 2, 4],
    "repeats": 3,
    "steps": 12,
    "warmup_steps": 2,
}


def study_file(folder: Path, **keys: Any) -> Path:
    """Write settings and a study; a key that is None is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.yaml").write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    content = {key: value for key, value in {**STUDY, **keys}.items() if value is not None}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def plan(folder: Path, **keys: Any) -> Plan:
    """Make a plan in ``folder / runs``."""
    made, settings = make_plan(study_file(folder, **keys), folder / "runs")
    write_plan(made, settings)
    return read_plan(folder / "runs")


def ideal(point: Point) -> float:
    """Return the step time of ranks that share work perfectly: 1 ms a sample and example."""
    return 1e-3 * (point.samples / point.sample_ranks) * (point.batch_size / point.data_ranks)


@functools.cache
def settings_text(file: Path, fingerprint: str, overrides: tuple[str, ...]) -> str:
    """Resolve the settings that the repeats of a point share, as a run writes them."""
    return dump_settings(resolved(load_settings(file, overrides)))


def make_run(
    made: Plan,
    point: Point,
    *,
    step_time: Callable[[Point], float] = ideal,
    jitter: float = 0.0,
    **summary: Any,
) -> None:
    """Write the run folder of a point; ``summary`` overrides what summary.json says."""
    folder = made.run_folder(point)
    folder.path.mkdir(parents=True)
    text = settings_text(made.settings_file, made.fingerprint, point.overrides)
    folder.config.write_text(text, encoding="utf-8")
    rows = []
    for step in range(made.study.steps):
        warm = 10.0 if step < made.study.warmup_steps else 1.0
        time = step_time(point) * warm * (1 + jitter * (step % 2))
        loss = 3.0 / (1 + step)
        rows.append({"step": step, "epoch": step / 10, "loss": loss, "step_time_s": time * 0.75})
        rows[-1]["data_wait_time_s"] = time * 0.25
    rows.append({"step": made.study.steps - 1, "epoch": 1.0, "validation_nll": 1.0})
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    content = {
        "steps": made.study.steps,
        "final_loss": rows[-2]["loss"],
        "grid": {
            "sample_ranks": point.sample_ranks,
            "data_ranks": point.data_ranks,
            "nodes": point.nodes,
        },
        "peak_memory_bytes": 1000 * point.repeat,
        "communication_share": 0.1,
        "versions": {"hpc_bnn": "1", "torch": "2"},
        "hosts": ["a"],
        "device": "cpu",
        "phases_s": {"forward": 0.5 * step_time(point), "draw": 0.1 * step_time(point)},
        "energy_j": None,
        "restarts": 0,
        **summary,
    }
    folder.summary.write_text(json.dumps(content), encoding="utf-8")


def make_runs(made: Plan, **arguments: Any) -> None:
    """Write the run folder of every point."""
    for point in made.points:
        make_run(made, point, **arguments)
