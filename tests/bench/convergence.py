"""Whether each weight sample should see its own random view of the batch, and what Bayes is worth.

    python tests/bench/convergence.py                 vit_digits.yaml, 5 seeds on 2 ranks
    python tests/bench/convergence.py --seeds 3 train.steps=500
    python tests/bench/convergence.py --config vit_cifar10.yaml data.path=cifar10/ train.epochs=10

The same network is trained with the same batches, steps and weight samples, with augmentation
``per_sample`` (K views of a batch), ``per_rank`` (as many as sample ranks, hence two ranks) and
``shared`` (one). Beside them the deterministic network with the same optimizer and augmentation,
twice: with as many steps of one batch ("same steps"), and with K times as many, which is as many
forward passes of the batch ("same passes"). Validation over the epochs, by 16 samples; at the end
validation and test by ``posterior.predict_samples``. Mean and standard deviation over seeds; a seed
sets initial weights, order, noise and views.

``quarter_nll`` is the validation NLL after a quarter of the run. Writes
``build/bench/convergence-CONFIG.{csv,json,png}``, the curves beside them.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from job import run_ranks
from report import FOLDER, Row, publish
from torch.nn import functional

import hpc_bnn as hb
from hpc_bnn.bayes.noise import Purpose, Stream, uniforms
from hpc_bnn.config import Settings
from hpc_bnn.config.load import CONFIGS, load_settings
from hpc_bnn.data import Batches
from hpc_bnn.data.source import Examples
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.train.run.build import Parts, build, read_source
from hpc_bnn.train.score.scoring import score
from hpc_bnn.train.step.schedule import learning_rate
from hpc_bnn.verify.tally import ClassificationTally

VIEWS = ("per_sample", "per_rank", "shared")
SAME_STEPS, SAME_PASSES = "deterministic, same steps", "deterministic, same passes"
VALIDATIONS = 12  # over a run, evenly spaced
VALIDATION_SAMPLES = 16
SHOWN = ("validation_accuracy", "validation_nll", "test_accuracy", "test_nll")

Run = dict[str, Any]


def bayesian(settings: Settings, parts: Parts, world: hb.World) -> Run:
    """Collective: train as ``hpc-bnn train`` does and return curve and final scores."""
    chosen, posterior = settings.train, settings.posterior
    batches = Batches(
        parts.source.train, batch_size=chosen.batch_size, world=world, seed=settings.seed
    )
    total = chosen.steps or chosen.epochs * batches.steps_per_epoch
    optimizer = parts.optimizer(chosen.lr)
    step = hb.Step(
        parts.posterior,
        parts.loss,
        optimizer,
        world,
        samples=posterior.samples,
        num_examples=len(parts.source.train),
        kl_weight=posterior.kl_weight,
        kl_warmup_steps=posterior.kl_warmup_steps,
        samples_per_pass=min(
            posterior.samples_per_pass, posterior.samples // world.grid.sample_ranks
        ),
        augment=parts.augment,
        views=settings.data.augmentation,
        clip_norm=chosen.clip_norm or None,
    )

    def scores(examples: Examples, samples: int) -> dict[str, float]:
        return score(
            parts.posterior,
            parts.loss,
            examples,
            world,
            task=parts.source.task,
            output_shape=parts.source.output_shape,
            scale=None,
            samples=samples,
            batch_size=256,
        ).result()

    curve: list[dict[str, float]] = []
    began = time.process_time()
    for number in range(total):
        set_rate(optimizer, settings, number, total)
        step(*batches.at(number))
        if due(number, total):
            found = scores(parts.source.validation, VALIDATION_SAMPLES)
            curve.append(point(number, batches.steps_per_epoch, found))
    spent = time.process_time() - began
    return {
        "curve": curve,
        "cpu_s": spent,
        **named("validation", scores(parts.source.validation, posterior.predict_samples)),
        **named("test", scores(parts.source.test, posterior.predict_samples)),
    }


def deterministic(settings: Settings, parts: Parts, *, times: int) -> Run:
    """Train the network alone, ``times`` as many steps, and return curve and final scores."""
    chosen, network = settings.train, parts.posterior.module
    alone = hb.World(Grid(1, 1, 0), torch.device("cpu"))
    batches = Batches(
        parts.source.train, batch_size=chosen.batch_size, world=alone, seed=settings.seed
    )
    total = times * (chosen.steps or chosen.epochs * batches.steps_per_epoch)
    optimizer = torch.optim.Adam(network.parameters(), lr=chosen.lr, fused=True)

    def scores(examples: Examples) -> dict[str, float]:
        tally = ClassificationTally()
        with torch.no_grad():
            for part in torch.arange(len(examples)).split(256):
                x, y = examples.batch(part)
                tally.add(network(x)[None], None, y)
        return tally.result()

    curve: list[dict[str, float]] = []
    began = time.process_time()
    for number in range(total):
        set_rate(optimizer, settings, number, total)
        x, y = batches.at(number)
        if parts.augment is not None:
            count = parts.augment.count(tuple(x.shape[1:]))
            stream = Stream(settings.seed, Purpose.AUGMENTATION, number, 0)
            x = parts.augment(x, uniforms(stream, (len(x), count)))
        optimizer.zero_grad()
        functional.cross_entropy(network(x), y).backward()  # type: ignore[no-untyped-call]
        if chosen.clip_norm:
            torch.nn.utils.clip_grad_norm_(network.parameters(), chosen.clip_norm)
        optimizer.step()
        if due(number, total):
            curve.append(
                point(number / times, batches.steps_per_epoch, scores(parts.source.validation))
            )
    spent = time.process_time() - began
    return {
        "curve": curve,
        "cpu_s": spent,
        **named("validation", scores(parts.source.validation)),
        **named("test", scores(parts.source.test)),
    }


def set_rate(optimizer: torch.optim.Optimizer, settings: Settings, step: int, total: int) -> None:
    """Set the learning rate of a step; the warm-up is the same part of a longer run."""
    chosen = settings.train
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(
            step,
            total_steps=total,
            lr=chosen.lr,
            lr_min=chosen.lr_min,
            warmup_steps=chosen.warmup_steps,
            schedule=chosen.schedule,
        )


def due(step: int, total: int) -> bool:
    """Tell whether validation follows this step."""
    return (step + 1) % max(1, total // VALIDATIONS) == 0


def point(step: float, per_epoch: int, scores: dict[str, float]) -> dict[str, float]:
    """Return one point of a curve."""
    return {
        "epoch": (step + 1) / per_epoch,
        "accuracy": scores["accuracy"],
        "nll": scores["nll"],
    }


def named(split: str, scores: dict[str, float]) -> dict[str, float]:
    """Return the scores that the table shows."""
    kept = {"accuracy": "accuracy", "nll": "nll", "ece": "expected_calibration_error"}
    return {f"{split}_{short}": scores[name] for short, name in kept.items()}


def on_ranks(config: Path, seeds: int, overrides: Sequence[str], folder: Path) -> None:
    """Collective: train everything on the ranks of this job and write one file a run."""
    torch.set_num_threads(1)
    world = hb.start(mode="sample", device="cpu")
    for seed in range(seeds):
        settings = load_settings(config, [*overrides, f"seed={seed}"])
        source = read_source(settings, world.all_ranks)
        for views in VIEWS:
            changed = load_settings(
                config, [*overrides, f"seed={seed}", f"data.augmentation={views}"]
            )
            run = bayesian(changed, build(changed, source), world)
            if world.is_first:
                write(folder, views, seed, run)
        for i, (name, times) in enumerate(
            ((SAME_STEPS, 1), (SAME_PASSES, settings.posterior.samples))
        ):
            # Whole runs a rank: the longer one of a seed takes turns.
            if (seed + i) % world.grid.world_size == world.grid.world_rank:
                write(
                    folder,
                    name,
                    seed,
                    deterministic(settings, build(settings, source), times=times),
                )
    world.stop()


def write(folder: Path, contender: str, seed: int, run: Run) -> None:
    """Write one run."""
    name = contender.replace(", ", "-").replace(" ", "-")
    (folder / f"{name}-{seed}.json").write_text(
        json.dumps({"contender": contender, "seed": seed, **run})
    )


def collect(folder: Path) -> list[Run]:
    """Return all runs of a folder."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def summary(runs: Sequence[Run]) -> list[Row]:
    """Return mean and standard deviation over seeds, one row a contender."""
    rows: list[Row] = []
    for contender in (*VIEWS, SAME_STEPS, SAME_PASSES):
        own = [run for run in runs if run["contender"] == contender]
        if not own:
            continue
        early = [run["curve"][VALIDATIONS // 4 - 1] for run in own]
        row: Row = {
            "contender": contender,
            "seeds": len(own),
            "quarter_epoch": early[0]["epoch"],
            "quarter_nll": statistics.fmean(found["nll"] for found in early),
        }
        for key in (*SHOWN, "test_ece", "cpu_s"):
            values = [float(str(run[key])) for run in own]
            row[key] = statistics.fmean(values)
            row[f"{key}_sd"] = statistics.stdev(values) if len(values) > 1 else 0.0
        rows.append(row)
    return rows


def draw(runs: Sequence[Run], path: Path) -> None:
    """Draw validation NLL and accuracy over the epochs: mean, and one standard deviation."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 4))
    colours = ("tab:blue", "tab:orange", "tab:green", "tab:gray", "black")
    for contender, colour in zip((*VIEWS, SAME_STEPS, SAME_PASSES), colours, strict=True):
        curves = [run["curve"] for run in runs if run["contender"] == contender]
        if not curves:
            continue
        for panel, key in zip(panels, ("nll", "accuracy"), strict=True):
            columns = list(zip(*curves, strict=True))
            epochs = [column[0]["epoch"] for column in columns]
            values = torch.tensor([[p[key] for p in column] for column in columns])
            middle = values.mean(1)
            half = values.std(1) if values.shape[1] > 1 else torch.zeros_like(middle)
            panel.plot(epochs, middle, color=colour, label=contender)
            panel.fill_between(epochs, middle - half, middle + half, color=colour, alpha=0.15)
    panels[0].set(ylabel="validation NLL")
    panels[1].set(ylabel="validation accuracy")
    for panel in panels:
        panel.set(xlabel="epoch (same passes: stretched, it has K times as many)")
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("overrides", nargs="*", help="key=value, as of hpc-bnn train")
    parser.add_argument("--config", default="vit_digits.yaml", help="a bundled one, or a file")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--collect", action="store_true", help="show the last runs again")
    parser.add_argument("--rank-of-job", action="store_true", help="used by this script itself")
    arguments = parser.parse_args()
    bundled = CONFIGS / arguments.config
    config = bundled if bundled.is_file() else Path(arguments.config)
    name = f"convergence-{config.stem}"
    folder = FOLDER / name
    if arguments.rank_of_job:
        on_ranks(config, arguments.seeds, arguments.overrides, folder)
        return
    load_settings(config, arguments.overrides)  # errors before a job starts
    folder.mkdir(parents=True, exist_ok=True)
    if not arguments.collect:
        for old in folder.glob("*.json"):
            old.unlink()
        options = ["--rank-of-job", "--config", str(config), "--seeds", str(arguments.seeds)]
        run_ranks(arguments.ranks, __file__, [*options, *arguments.overrides])
    runs = collect(folder)
    publish(name, summary(runs))
    draw(runs, FOLDER / f"{name}.png")
    print(f"picture: {FOLDER / f'{name}.png'}")


if __name__ == "__main__":
    main()
