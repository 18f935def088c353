"""Run folders as ``train`` and ``evaluate`` leave them, whose numbers are made up."""

import io
import json
from pathlib import Path
from typing import Any

import yaml
from fabricated import SETTINGS
from PIL import Image

from hpc_bnn.config import dump_settings, load_settings

SUMMARY: dict[str, Any] = {
    "steps": 6,
    "final_loss": 1.0,
    "parameter_checksum": {"sum": 12.5, "sum_of_squares": 3.0},
    "grid": {"sample_ranks": 2, "data_ranks": 3, "nodes": 1},
    "engine": "torch",
    "samples": 12,
    "batch_size": 12,
    "step_time_s": {"median": 0.004, "p90": 0.006},
    "peak_memory_bytes": 300 * 2**20,
    "communication_share": 0.25,
    "data_wait_share": 0.01,
    "phases_s": {"data": 0.0001, "forward": 0.002, "backward": 0.0018, "communication": 0.001},
    "energy_j": None,
    "hosts": ["node1"],
    "device": "a processor",
    "examples_per_s": 3000.0,
    "validation": {"crps": 0.5},
    "versions": {"hpc_bnn": "0.1.0", "torch": "2.13.0"},
    "data": {"bytes_read": 2**20},
    "restarts": 0,
    "lost_steps": 0,
}
SERIES: dict[str, Any] = {
    "data": "synthetic_series",
    "split": "test",
    "step": 6,
    "samples": 64,
    "units": "MW",
    "scores": {"points": 40.0, "rmse": 2.5, "crps": 1.25, "coverage_90": 0.8},
    "pit_counts": [1.0, 2.0, 3.0, 4.0],
    "lead_time_h": [1.0, 2.0],
    "channels": {
        "load": {
            "by_lead_time": {"rmse": [2.0, 3.0], "crps": [1.0, 1.5], "coverage_90": [0.8, 0.9]},
        },
    },
    "naive": {
        "last_value": {
            "rmse": 2.0, "crps": 2.25,
            "channels": {"load": {"by_lead_time": {"rmse": [1.5, 2.5], "crps": [2.0, 2.5]}}},
        }
    },
}  # fmt: skip
MEMORY = {"bytes": 330 * 2**20, "sample_ranks": 2, "data_ranks": 3}
LEADS = [24.0, 48.0, 72.0]
OF_Z500: dict[str, Any] = {
    "starts": [4, 4, 4],
    "rmse": [100.0, 200.0, 300.0],
    "acc": [0.9, 0.8, 0.7],
    "crps": [50.0, 90.0, 140.0],
    "spread_skill_ratio": [0.9, 1.0, 1.1],
    "coverage_90": [0.85, 0.9, 0.95],
    "rank_histogram": [[4.0, 1.0, 1.0, 2.0]] * 3,
    "persistence": {"rmse": [150.0, 320.0, 400.0], "acc": [0.5, 0.2, 0.1], "crps": [99.0] * 3},
    "climatology": {"rmse": [310.0] * 3, "crps": [170.0] * 3},
}
FIELDS: dict[str, Any] = {
    "data": "era5(toy)",
    "split": "test",
    "step": 6,
    "members": 3,
    "starts": 4,
    "first_start": "2001-03-01T00:00",
    "last_start": "2001-03-05T00:00",
    "lead_hours": LEADS,
    "units": {"z500": "m2 s-2"},
    "scores": {"z500": OF_Z500},
}


def png(shade: int, size: tuple[int, int] = (40, 20)) -> bytes:
    """Return a picture of one shade of grey."""
    held = io.BytesIO()
    Image.new("RGB", size, (shade, shade, shade)).save(held, "PNG")
    return held.getvalue()


def write_run(
    folder: Path,
    *,
    steps: int = 6,
    summary: dict[str, Any] | None = SUMMARY,
    evaluation: dict[str, Any] | None = SERIES,
    pictures: dict[str, bytes] | None = None,
    **settings: dict[str, Any],
) -> Path:
    """Write a run folder; a file whose content is None is left out. ``settings`` are sections."""
    (folder / "checkpoints").mkdir(parents=True)
    content = {
        key: {**value} if isinstance(value, dict) else value for key, value in SETTINGS.items()
    }
    for section, values in settings.items():
        content[section] = {**content.get(section, {}), **values}
    (folder / "given.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    text = dump_settings(load_settings(folder / "given.yaml"))
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    rows: list[dict[str, Any]] = [
        {"step": i, "epoch": 0.1 * i, "loss": 3.0 / (1 + i), "nll": 2.0 / (1 + i), "kl": 50.0 + i,
         "lr": 1e-3, "step_time_s": 0.004}
        for i in range(steps)
    ]  # fmt: skip
    rows.append({"step": steps - 1, "epoch": 0.5, "validation_crps": 0.5, "validation_rmse": None})
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (folder / "metrics.jsonl").write_text(lines, encoding="utf-8")
    for name, held in (("summary", summary), ("evaluation", evaluation), ("memory", MEMORY)):
        if held is not None:
            (folder / f"{name}.json").write_text(json.dumps(held), encoding="utf-8")
    (folder / "plots").mkdir()
    for name, picture in (pictures or {}).items():
        (folder / "plots" / name).write_bytes(picture)
    return folder
