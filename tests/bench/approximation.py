"""What becomes of training when each rank computes a joint loss of its own weight samples only.

    python tests/bench/approximation.py               1, 2 and 4 ranks, three minutes
    python tests/bench/approximation.py --steps 200

A joint loss (CRPS, Gaussian moments, predictive NLL) is a function of all K weight samples. Exact,
ranks exchange what it needs and every number of ranks trains the same network. Approximate
(``loss.exact: false``), each rank takes the loss of its own K / S samples and gradients are
averaged, so the objective depends on S; at one rank both are the same.

A multilayer perceptron forecasts 24 hours of a made-up hourly load from 168, K = 8, in float64, the
same batches and noise everywhere. During training the *exact* loss over 32 samples on validation
windows is taken, and at the end the distance of all parameters from those of one rank, over their
norm. Writes ``build/bench/approximation.{csv,json,png}``.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from job import run_ranks
from report import FOLDER, Row, publish
from torch import Tensor

import hpc_bnn as hb
from hpc_bnn import losses
from hpc_bnn.data import Batches
from hpc_bnn.data.series.synthetic import synthetic_series
from hpc_bnn.data.source import Source
from hpc_bnn.group import ALONE
from hpc_bnn.losses import JointLoss, Loss
from hpc_bnn.models.mlp import MLP

SAMPLES, BATCH = 8, 64
SCORED_SAMPLES, SCORED_WINDOWS = 32, 128
RANKS = (1, 2, 4)
FLOOR = 1e-17  # what the picture shows for no difference at all
LOSSES: dict[str, Callable[[], Loss]] = {
    "gaussian_moments": lambda: losses.gaussian_moments(sigma=0.1),
    "almost_fair_crps": losses.almost_fair_crps,
    "predictive NLL": lambda: losses.gaussian_nll(sigma=0.3, predictive=True),
}


def train(
    world: hb.World, source: Source, name: str, *, exact: bool, steps: int
) -> dict[str, float]:
    """Collective: train one network; rank 0 returns its curve and writes the parameters."""
    torch.manual_seed(0)
    network = MLP(source.input_shape, source.output_shape, hidden=(48,)).double()
    posterior = hb.Gaussian(network, prior_sigma="fan_in", initial_sigma=0.05, seed=1)
    loss = LOSSES[name]().double()
    step = hb.Step(
        posterior,
        loss,
        torch.optim.Adam(posterior.parameters(), lr=2e-3),
        world,
        samples=SAMPLES,
        num_examples=len(source.train),
        kl_weight=0.1,
        clip_norm=100.0,
        precision="float64",
        exact=exact,
    )
    batches = Batches(source.train, batch_size=BATCH, world=world, seed=1)
    curve: dict[str, float] = {}
    for number in range(steps + 1):
        if world.is_first and number % max(1, steps // 15) == 0:
            curve[str(number)] = exact_loss(posterior, loss, source)
        if number < steps:
            step(*batches.at(number))
    parameters = torch.cat([p.detach().flatten() for p in posterior.parameters()])
    if world.is_first:
        torch.save(parameters, parameter_file(name, world.grid.sample_ranks, exact=exact))
    return curve


@torch.no_grad()
def exact_loss(posterior: hb.Gaussian, loss: Loss, source: Source) -> float:
    """Return the loss over all of ``SCORED_SAMPLES`` samples, on one rank."""
    assert isinstance(loss, JointLoss)
    count = min(SCORED_WINDOWS, len(source.validation))
    x, y = source.validation.batch(torch.linspace(0, len(source.validation) - 1, count).long())
    outputs = posterior.predict(x.double(), samples=SCORED_SAMPLES)
    return float(loss(outputs, y.double(), ALONE).mean())


def parameter_file(name: str, ranks: int, *, exact: bool) -> Path:
    """Return where the parameters of a run lie."""
    kind = "exact" if exact else "approximate"
    return FOLDER / "approximation" / f"{name.replace(' ', '-')}-{kind}-{ranks}.pt"


def on_ranks(steps: int) -> None:
    """Collective: train with every loss, both ways, on the ranks of this job."""
    torch.set_num_threads(1)
    world = hb.start(mode="sample", device="cpu")
    source = synthetic_series(length=4383)
    found: dict[str, object] = {}
    for name in LOSSES:
        for exact in (True, False):
            curve = train(world, source, name, exact=exact, steps=steps)
            found[f"{name}/{'exact' if exact else 'approximate'}"] = curve
    if world.is_first:
        path = FOLDER / "approximation" / f"ranks-{world.grid.sample_ranks}.json"
        path.write_text(json.dumps(found))
    world.stop()


def collect(ranks: Sequence[int]) -> tuple[list[Row], dict[tuple[str, str, int], dict[int, float]]]:
    """Return a row and the curve of every run."""
    rows: list[Row] = []
    curves = {}
    for name in LOSSES:
        for kind in ("exact", "approximate"):
            for count in ranks:
                path = FOLDER / "approximation" / f"ranks-{count}.json"
                curve = json.loads(path.read_text())[f"{name}/{kind}"]
                curves[name, kind, count] = {int(step): value for step, value in curve.items()}
                alone = curves[name, kind, ranks[0]]
                rows.append(
                    {
                        "loss": name,
                        "kind": kind,
                        "sample_ranks": count,
                        "final_loss": list(curve.values())[-1],
                        "largest_difference": max(
                            abs(value - alone[step])
                            for step, value in curves[name, kind, count].items()
                        ),
                        "parameter_distance": distance(name, count, kind == "exact", ranks[0]),
                    }
                )
    return rows, curves


def distance(name: str, ranks: int, exact: bool, reference: int) -> float:
    """Return the relative distance of parameters from those of ``reference`` ranks."""
    own: Tensor = torch.load(parameter_file(name, ranks, exact=exact))
    alone: Tensor = torch.load(parameter_file(name, reference, exact=exact))
    return float((own - alone).norm() / alone.norm())


def draw(curves: dict[tuple[str, str, int], dict[int, float]], path: Path) -> None:
    """Draw the exact validation loss over the steps, and its distance from that of one rank."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        2, len(LOSSES), figsize=(3.8 * len(LOSSES), 5.6), sharex=True, height_ratios=(3, 2)
    )
    for column, name in enumerate(LOSSES):
        above, below = panels[:, column]
        alone = curves[name, "exact", 1]
        for (loss, kind, count), curve in curves.items():
            if loss != name or (kind, count) == ("approximate", 1):
                continue
            steps, values = list(curve), list(curve.values())
            look = style(kind, count)
            above.plot(steps, values, **look)
            if count > 1:
                apart = [max(abs(value - alone[step]), FLOOR) for step, value in curve.items()]
                below.plot(steps, apart, **look)
        above.set(title=name, yscale="log")
        below.set(xlabel="training step", yscale="log")
        for panel in (above, below):
            panel.grid(alpha=0.3)
    panels[0, 0].set_ylabel("exact validation loss")
    panels[1, 0].set_ylabel("distance from one rank")
    panels[0, 0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=75)
    plt.close(figure)


def style(kind: str, ranks: int) -> dict[str, object]:
    """Return how the curve of a run is drawn: exact ones lie on each other, so they are dashed."""
    label = f"{kind}, {ranks} rank{'s' if ranks > 1 else ''}"
    if kind == "approximate":
        return {"color": {2: "tab:orange"}.get(ranks, "tab:red"), "label": label}
    if ranks == 1:
        return {"color": "black", "label": label}
    blue = {2: "tab:blue"}.get(ranks, "tab:cyan")
    return {"color": blue, "linestyle": (ranks, (4, 4)), "linewidth": 2.0, "label": label}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--ranks", type=int, nargs="+", default=list(RANKS))
    parser.add_argument("--collect", action="store_true", help="show the last runs again")
    parser.add_argument("--rank-of-job", action="store_true", help="used by this script itself")
    arguments = parser.parse_args()
    (FOLDER / "approximation").mkdir(parents=True, exist_ok=True)
    if arguments.rank_of_job:
        on_ranks(arguments.steps)
        return
    for count in [] if arguments.collect else arguments.ranks:
        run_ranks(count, __file__, ["--rank-of-job", "--steps", str(arguments.steps)])
    rows, curves = collect(arguments.ranks)
    publish("approximation", rows)
    draw(curves, FOLDER / "approximation.png")
    print(f"picture: {FOLDER / 'approximation.png'}")


if __name__ == "__main__":
    main()
