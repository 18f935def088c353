"""What training on forecasts of several steps is worth: errors after one day and after five.

    python tests/bench/rollout.py                     one seed, some 15 minutes on one core
    python tests/bench/rollout.py --seeds 3 --first 6000 --then 3200

A SWIN transformer on a toy atmosphere of 16 x 32 points. It is trained on forecasts
of one day; then it is trained on, from the same checkpoint and at the same small learning rate, on
forecasts of one day or of four. Both run the network forward and backward equally often (a forecast
of four days counts four), so the latter makes a quarter of the updates; what it runs again in
backward is not counted, but takes its time. All see the same examples, those that have targets for
four days. RMSE of the ensemble mean over start times of the test
year, as of ``hpc-bnn evaluate``, relative to that of the climatology: 1 is as good as knowing
nothing but the date. "all" is the root of the mean square over channels.

Writes ``build/bench/rollout.{csv,json}``. Runs that are there are taken up and not made again.
"""

import argparse
import json
import math
import shutil
import statistics
from pathlib import Path
from typing import Any

from report import FOLDER, Row, Target, publish

from hpc_bnn.cli import program as cli
from hpc_bnn.config.load import CONFIGS, load_settings
from hpc_bnn.fields.toy_atmosphere import write_toy
from hpc_bnn.group import ALONE
from hpc_bnn.train.run.build import read_source
from hpc_bnn.train.step.schedule import learning_rate

Run = dict[str, Any]

STEPS = 4
NEVER = 10**6  # an epoch that no run reaches
TUNING_LR = 5e-4  # at the start of what follows, a quarter of that before
DAYS = (1, 5)
SMALL = (
    "model.width=32",
    "model.depths=[2, 2, 2, 2]",
    "model.heads=[2, 4, 4, 2]",
    "model.window=[4, 8]",
    "train.lr=0.002",
    "perturb=null",
    "forecast.redraw=never",
    "train.redraw=never",
    "data.train=[2001-01-01, 2003-12-31]",
    "data.validation=[2004-01-01, 2004-01-31]",
    "data.test=[2004-02-01, 2004-12-31]",
    "posterior.samples=2",
    "posterior.predict_samples=8",
    "train.checkpoint_every=0",
    "train.validate_every=0",
    "train.warmup_steps=30",
    "evaluation.starts=60",
    "evaluation.steps=5",
)


def toy() -> Path:
    """Write the toy atmosphere once and return its folder."""
    folder = FOLDER / "rollout" / "toy"
    if not folder.is_dir():
        write_toy(folder, years=4, rows=16, columns=32, step_hours=12, levels=[500.0], seed=3)
    return folder


def run(folder: Path, overrides: list[str]) -> Run:
    """Train and evaluate by the command line, or resume, and return what the files tell."""
    train = ["train", str(CONFIGS / "demo.yaml"), *overrides, "--run", str(folder)]
    if cli.main([*train, "--resume"]) or cli.main(["evaluate", str(folder)]):
        raise SystemExit(
            f"{folder.name}: training or evaluation failed; remove {folder} to begin anew"
        )
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if "loss" in row]
    scores = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["scores"]
    return {
        "scores": scores,
        "updates": len(rows),
        "evaluations": sum(row.get("rollout", 1) for row in rows),
        "train_s": sum(row["step_time_s"] for row in rows),
    }


def relative(scores: dict[str, Any], channel: str, day: int) -> float:
    own = scores[channel]
    return float(own["rmse"][day - 1] / own["climatology"]["rmse"][day - 1])


def row(contender: str, runs: list[Run]) -> Row:
    """Return the means over seeds."""
    made: Row = {
        "contender": contender,
        "updates": runs[0]["updates"],
        "evaluations": runs[0]["evaluations"],
        "train_s": statistics.mean(run["train_s"] for run in runs),
    }
    channels = list(runs[0]["scores"])
    for day in DAYS:
        for channel in channels:
            values = [relative(run["scores"], channel, day) for run in runs]
            made[f"{channel}_{24 * day}h"] = statistics.mean(values)
        over_channels = [
            math.sqrt(statistics.mean(relative(run["scores"], c, day) ** 2 for c in channels))
            for run in runs
        ]
        made[f"all_{24 * day}h"] = statistics.mean(over_channels)
        made[f"all_{24 * day}h_sd"] = statistics.stdev(over_channels) if len(runs) > 1 else 0.0
    return made


def train_on(base: Path, folder: Path, total: int, rollout: str, overrides: list[str]) -> Run:
    """Go on from the end of another run up to step ``total``."""
    newest = max((base / "checkpoints").glob("step-*.pt"))
    if not folder.is_dir():
        (folder / "checkpoints").mkdir(parents=True)
        shutil.copy(newest, folder / "checkpoints")
    first = int(newest.stem.removeprefix("step-"))
    lr = TUNING_LR / learning_rate(first, total_steps=total, lr=1.0)  # the rest of its cosine
    own = [f"train.lr={lr:.8f}", f"train.steps={total}", f"train.rollout={rollout}"]
    return run(folder, [*overrides, *own])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("overrides", nargs="*", help="key=value, as of hpc-bnn train")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first", type=int, default=3000, help="updates of one step")
    parser.add_argument("--then", type=int, default=1600, help="evaluations of the network")
    arguments = parser.parse_args()
    first, then = arguments.first, arguments.then
    common = [*SMALL, f"data.path={toy()}", *arguments.overrides]
    settings = load_settings(CONFIGS / "demo.yaml", [*common, f"train.rollout={{0: {STEPS}}}"])
    one_step = f"{{0: 1, {NEVER}: {STEPS}}}"
    epoch = first // (len(read_source(settings, ALONE).train) // settings.train.batch_size)
    names = ("one step", "then one step", f"then {STEPS} steps")
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for seed in range(1, arguments.seeds + 1):
        folders = [FOLDER / "rollout" / f"{seed}-{name.replace(' ', '-')}" for name in names]
        own = [*common, f"seed={seed}"]
        made = [run(folders[0], [*own, f"train.steps={first}", f"train.rollout={one_step}"])]
        made.append(train_on(folders[0], folders[1], first + then, one_step, own))
        total, rollout = first + then // STEPS, f"{{0: 1, {epoch}: {STEPS}}}"
        made.append(train_on(folders[0], folders[2], total, rollout, own))
        for name, one in zip(names, made, strict=True):
            runs[name].append(one)
    rows = [row(name, runs[name]) for name in names]
    before, after = (float(one["all_120h"]) for one in rows[1:])
    publish("rollout", rows, [Target("RMSE at 5 days, 4 steps over one", after / before, most=1.0)])


if __name__ == "__main__":
    main()
