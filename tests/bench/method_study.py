"""What each method buys on the digits: ``vit_digits.yaml``, the same steps, several seeds.

Every method is trained by ``hpc-bnn train``, at the setting of ``TRIED`` with the lowest validation
NLL (``--tune``: seed 100, which the study does not use; chosen for good in ``CHOSEN``), and scored
on the test images by ``hpc-bnn evaluate``: accuracy, NLL, expected calibration error, AUROC of the
confidence against images that are shifted by half their size. Beside them the deterministic network
of the same passes: one network, as many steps as all samples together.

Two runs at a time, one thread each; CPU time and peak memory are those of the training process.
Writes ``build/bench/methods-study.{csv,json,png}``.
"""

import concurrent.futures
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from report import FOLDER, Row, publish

STEPS = 1000
TUNING_SEED = 100
RUNS = FOLDER / "methods-study"
SETTINGS = "settings"

# Of each method: what is always set, then the values that are tried.
TRIED: dict[str, tuple[list[str], dict[str, Sequence[object]]]] = {
    "deterministic": (
        ["posterior.name=ensemble", "posterior.samples=1"],
        {"train.lr": (0.001, 0.003), "posterior.kl_weight": (0.01, 0.1)},
    ),
    "gaussian": (["posterior.name=gaussian"], {"posterior.kl_weight": (0.003, 0.01, 0.03)}),
}
CHOSEN: dict[str, list[str]] = {}
SHOWN = {
    "accuracy": "accuracy",
    "nll": "NLL",
    "ece": "ECE",
    "auroc_shifted": "AUROC, shifted",
}


def command(*arguments: str) -> list[str]:
    """Return the command line of ``hpc-bnn``."""
    return [sys.executable, "-m", "hpc_bnn", *arguments]


def run(name: str, seed: int, steps: int, overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """Train, evaluate and return the scores of one run."""
    shutil.rmtree(folder, ignore_errors=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    given = [f"seed={seed}", f"train.steps={steps}", "train.validate_every=0", *overrides]
    train = command("train", "vit_digits.yaml", *given, "--run", str(folder))
    child = subprocess.Popen(
        train, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    messages = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{name}, seed {seed}: {' '.join(train)}\n{messages}")
    subprocess.run(
        command("evaluate", str(folder)),
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    summary = json.loads((folder / "summary.json").read_text())
    evaluation = json.loads((folder / "evaluation.json").read_text())
    scores = evaluation["scores"]
    return {
        "method": name,
        "seed": seed,
        "validation_nll": summary["validation"]["nll"],
        "accuracy": scores["accuracy"],
        "nll": scores["nll"],
        "ece": scores["expected_calibration_error"],
        "auroc_shifted": evaluation["foreign"]["shifted"]["auroc"],
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "memory_mib": usage.ru_maxrss / 1024,
    }


def settings_of(name: str, *, tried: bool) -> list[list[str]]:
    """Return the settings of a method: all that are tried, or the chosen ones."""
    fixed, values = TRIED[name]
    if not tried:
        return [[*fixed, *CHOSEN.get(name, [])]]
    combinations = product(*values.values())
    return [
        [*fixed, *(f"{key}={value}" for key, value in zip(values, each, strict=True))]
        for each in combinations
    ]


def study(*, seeds: int, steps: int, tune: bool, only: Sequence[str], collect: bool) -> None:
    """Train what is missing and publish the table and the picture."""
    names = [name for name in TRIED if not only or name in only]
    jobs = []
    for name in names:
        for number, overrides in enumerate(settings_of(name, tried=tune)):
            passes = 8 if name == "deterministic" else 1  # posterior.samples of vit_digits.yaml
            for seed in [TUNING_SEED] if tune else range(seeds):
                folder = RUNS / f"{name.replace(' ', '-').replace(',', '')}-{number}-{seed}-{tune}"
                jobs.append((name, seed, passes * steps, overrides, folder))
    if not collect:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for (*_, overrides, folder), result in zip(
                jobs, pool.map(lambda job: run(*job), jobs), strict=True
            ):
                result[SETTINGS] = overrides
                folder.with_suffix(".json").write_text(json.dumps(result))
    results = [
        json.loads(folder.with_suffix(".json").read_text())
        for *_, folder in jobs
        if folder.with_suffix(".json").is_file()
    ]
    if tune:
        publish("methods-tuning", [_tuning_row(result) for result in results])
        return
    publish("methods-study", table(names, results))
    draw(names, results, FOLDER / "methods-study.png")
    print(f"picture: {FOLDER / 'methods-study.png'}")


def _tuning_row(result: dict[str, Any]) -> Row:
    kept = ("method", "validation_nll", "accuracy", "nll", "cpu_s")
    return {**{key: result[key] for key in kept}, SETTINGS: " ".join(result[SETTINGS])}


def table(names: Sequence[str], results: Sequence[dict[str, Any]]) -> list[Row]:
    """Return mean and standard deviation over seeds, one row a method."""
    rows: list[Row] = []
    for name in names:
        runs = [result for result in results if result["method"] == name]
        row: Row = {"method": name, "seeds": len(runs)}
        for key in (*SHOWN, "cpu_s", "memory_mib"):
            values = [result[key] for result in runs]
            row[key] = statistics.fmean(values)
            row[f"{key}_sd"] = statistics.stdev(values) if len(values) > 1 else 0.0
        rows.append(row)
    return rows


def draw(names: Sequence[str], results: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the scores of all runs: a dot a seed, a bar at the mean."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(SHOWN), figsize=(12, 0.45 * len(names) + 1.4), sharey=True)
    for panel, (key, label) in zip(panels, SHOWN.items(), strict=True):
        for place, name in enumerate(names):
            values = [result[key] for result in results if result["method"] == name]
            colour = "black" if name == "deterministic" else "tab:blue"
            panel.plot(values, [place] * len(values), ".", color=colour, alpha=0.5)
            panel.plot(statistics.fmean(values), place, "|", color=colour, markersize=16)
        better = "higher" if key in ("accuracy", "auroc_shifted") else "lower"
        panel.set(xlabel=f"{label} ({better} is better)")
        panel.grid(alpha=0.3)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
