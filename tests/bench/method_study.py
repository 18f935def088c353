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
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from convergence import deterministic
from report import FOLDER, Row, publish

from hpc_bnn.config.load import CONFIGS, load_settings
from hpc_bnn.data.images.foreign import FOREIGN
from hpc_bnn.data.source import Examples
from hpc_bnn.group import ALONE
from hpc_bnn.train.run.build import build, read_source
from hpc_bnn.verify.class_tally import ClassificationTally

STEPS = 500
TUNING_SEED = 100
RUNS = FOLDER / "methods-study"
SETTINGS = "settings"

DETERMINISTIC = "deterministic, same passes"
LAPLACE = "last_layer_laplace"
FAN_IN = "posterior.prior_sigma=fan_in"
CHAINS = [
    FAN_IN,
    f"posterior.burn_in={STEPS // 2}",
    f"posterior.collect_every={STEPS // 16}",
    "posterior.snapshots=8",
    "train.schedule=constant",
    "train.clip_norm=0",  # clipped gradients are those of another distribution
]

# Of each method: what is always set, then the values that are tried.
TRIED: dict[str, tuple[list[str], dict[str, Sequence[object]]]] = {
    DETERMINISTIC: ([], {"train.lr": (0.001, 0.003)}),
    "ensemble": (
        [FAN_IN],
        {"posterior.kl_weight": (0.0001, 0.01), "train.lr": (0.003, 0.006, 0.01)},
    ),
    "dropout": (
        [FAN_IN, "posterior.samples_per_pass=1", "posterior.kl_weight=0.01"],
        {"model.dropout": (0.05, 0.1, 0.2)},
    ),
    "gaussian": ([], {"posterior.kl_weight": (0.003, 0.01, 0.03)}),
    "gaussian, IVON": (
        ["optimizer.name=ivon", "train.clip_norm=0"],
        {"train.lr": (1.0, 2.0), "optimizer.beta2": (0.99, 0.999)},
    ),
    "low_rank": (
        [FAN_IN, "posterior.initial_sigma=0.01"],
        {"posterior.kl_weight": (0.003, 0.01, 0.03)},
    ),
    "rank1": (
        ["posterior.weight_sigma=fan_in"],
        {"posterior.kl_weight": (0.001, 0.003, 0.01)},
    ),
    "swag": (
        [FAN_IN, "train.schedule=constant"],
        {"posterior.kl_weight": (0.0001, 0.001), "train.lr": (0.003, 0.01)},
    ),
    "sgld": (CHAINS, {"train.lr": (0.1, 0.3), "posterior.temperature": (0.0001, 0.001, 0.01)}),
    "sghmc": (CHAINS, {"train.lr": (0.01, 0.03), "posterior.temperature": (0.0001, 0.001, 0.01)}),
    LAPLACE: ([], {"posterior.kl_weight": (0.003, 0.01, 0.03)}),
}
CHOSEN: dict[str, list[str]] = {  # by ``--tune``: the lowest validation NLL
    DETERMINISTIC: ["train.lr=0.001"],
    "ensemble": ["posterior.kl_weight=0.01", "train.lr=0.006"],
    "dropout": ["model.dropout=0.1"],
    "gaussian": ["posterior.kl_weight=0.01"],
    "gaussian, IVON": ["train.lr=2.0", "optimizer.beta2=0.999"],
    "low_rank": ["posterior.kl_weight=0.003"],
    "rank1": ["posterior.kl_weight=0.001"],
    "swag": ["posterior.kl_weight=0.001", "train.lr=0.003"],
    "sgld": ["train.lr=0.1", "posterior.temperature=0.01"],
    "sghmc": ["train.lr=0.01", "posterior.temperature=0.01"],
    LAPLACE: ["posterior.kl_weight=0.01"],
}
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
    for old in (folder, folder.with_suffix(".laplace")):
        shutil.rmtree(old, ignore_errors=True)
    given = [f"seed={seed}", f"train.steps={steps}", "train.validate_every=0", *overrides]
    result: dict[str, Any] = {"method": name, "seed": seed}
    if name == DETERMINISTIC:
        path = folder.with_suffix(".scores")
        usage = called(sys.executable, __file__, str(path), *given)
        scores = json.loads(path.read_text())
    else:
        method = {"gaussian, IVON": "gaussian", LAPLACE: "gaussian"}.get(name, name)
        given.append(f"posterior.name={method}")
        usage = called(*command("train", "vit_digits.yaml", *given, "--run", str(folder)))
        trained = json.loads((folder / "summary.json").read_text())["validation"]
        if name == LAPLACE:
            fitted = folder.with_suffix(".laplace")
            called(*command("laplace", str(folder), "-o", str(fitted)))
            folder = fitted
        called(*command("evaluate", str(folder)))
        scores = {f"validation_{key}": value for key, value in trained.items()}
        evaluation = json.loads((folder / "evaluation.json").read_text())
        scores |= evaluation["scores"] | {"auroc": evaluation["foreign"]["shifted"]["auroc"]}
    return result | {
        "validation_nll": scores["validation_nll"],
        "accuracy": scores["accuracy"],
        "nll": scores["nll"],
        "ece": scores["expected_calibration_error"],
        "auroc_shifted": scores["auroc"],
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "memory_mib": usage.ru_maxrss / 1024,
    }


def called(*words: str) -> resource.struct_rusage:
    """Run a command on one thread and return what it used."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as messages:
        child = subprocess.Popen(
            words, env=environment, stdout=subprocess.DEVNULL, stderr=messages, text=True
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            messages.seek(0)
            raise RuntimeError(f"{' '.join(words)}\n{messages.read()}")
    return usage


def deterministic_run(path: Path, overrides: Sequence[str]) -> None:
    """Train the network without a posterior and write its scores."""
    torch.set_num_threads(1)
    settings = load_settings(CONFIGS / "vit_digits.yaml", overrides)
    source = read_source(settings, ALONE)
    parts = build(settings, source)
    deterministic(settings, parts, times=settings.posterior.samples)

    @torch.no_grad()
    def tally(examples: Examples) -> ClassificationTally:
        filled = ClassificationTally()
        for part in torch.arange(len(examples)).split(256):
            x, y = examples.batch(part)
            filled.add(parts.posterior.module(x)[None], None, y)
        return filled

    test = tally(source.test)
    scores = test.result() | {"auroc": test.auroc(tally(FOREIGN["shifted"](source.test)))}
    scores["validation_nll"] = tally(source.validation).result()["nll"]
    path.write_text(json.dumps(scores))


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
    """Train what is missing and publish the table and the picture; runs whose settings are as
    before are not made again.
    """
    names = [name for name in TRIED if not only or name in only]
    jobs = []
    for name in names:
        for number, overrides in enumerate(settings_of(name, tried=tune)):
            for seed in [TUNING_SEED] if tune else range(seeds):
                folder = RUNS / f"{name.replace(' ', '-').replace(',', '')}-{number}-{seed}-{tune}"
                jobs.append((name, seed, steps, overrides, folder))
    if not collect:
        RUNS.mkdir(parents=True, exist_ok=True)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda job: keep_result(*job), jobs))
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


def keep_result(name: str, seed: int, steps: int, overrides: Sequence[str], folder: Path) -> None:
    """Train and score one run and keep its scores beside its folder."""
    path, settings = folder.with_suffix(".json"), [f"train.steps={steps}", *overrides]
    if path.is_file() and json.loads(path.read_text())[SETTINGS] == settings:
        return
    result = run(name, seed, steps, overrides, folder) | {SETTINGS: settings}
    path.write_text(json.dumps(result))
    print(f"{name}, seed {seed}: {result}", flush=True)


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
            colour = "black" if name == DETERMINISTIC else "tab:blue"
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


if __name__ == "__main__":  # one run of the deterministic network, for ``run``
    deterministic_run(Path(sys.argv[1]), sys.argv[2:])
