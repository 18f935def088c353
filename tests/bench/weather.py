"""A 5.625 degree run on data of your own, beside the published results on that grid.

    python tests/bench/weather.py WB2.zarr                     the bundled settings, to their end
    python tests/bench/weather.py era5.pack train.epochs=40    any key=value, as of hpc-bnn train
    python tests/bench/weather.py WB2.zarr --run runs/mine     a run that is there, or goes on there

DATA is whatever ``data.path`` takes: a pack, a zarr store of WeatherBench 2, a folder of netCDF
files. Trains ``swin_era5_5.625.yaml`` on 1979 to 2015, validates on 2016 and 2017 and scores 2018
with 10 members, as the published models were (key=value changes that, too). On a cluster start it
by ``srun`` as ``hpc-bnn train``, or train there first and give ``--run``.

Published: Andrae, Landelius, Oskarsson, Lindsten, Continuous Ensemble Weather Forecasting with
Diffusion Models, ICLR 2025, arXiv:2410.05431; computed from ``evaluation_metrics.zarr`` of
github.com/martinandrae/Continuous-Ensemble-Forecasting: WeatherBench at 5.625 degrees, test year
2018, 10 members, the CRPS that gains from members (not the fair one), means of the values of single
start times: so is the RMSE here, whereas ``evaluation.json`` has the root of the mean square.

Writes ``build/bench/weather.{csv,json}``.
"""

import argparse
import json
import math
from pathlib import Path

from report import FOLDER, Row, publish

from hpc_bnn.cli import program as cli
from hpc_bnn.config import CONFIGS
from hpc_bnn.fields.start_scores_file import read_start_scores
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.verify.start_scores import StartScores

LEADS_H = (24.0, 72.0, 120.0)
COLUMNS = {
    "z500 CRPS": ("z500", "crps"),
    "z500 RMSE": ("z500", "rmse"),
    "z500 SSR": ("z500", "spread_skill_ratio"),
    "t850 CRPS": ("t850", "crps"),
    "t2m CRPS": ("t2m", "crps"),
    "u10 CRPS": ("u10", "crps"),
}
# Three lead times of each column.
PUBLISHED = {
    "AR-24h diffusion": "65.2 162.6 242.7 | 135.7 355.9 544.2 | 0.84 0.79 0.84 | "
    "0.600 0.939 1.243 | 0.494 0.701 0.874 | 0.807 1.294 1.622",
    "ARCI-24-6h": "65.3 171.1 256.7 | 135.3 368.4 560.9 | 0.91 0.82 0.86 | "
    "0.606 0.955 1.268 | 0.503 0.720 0.896 | 0.809 1.307 1.637",
    "AR-6h diffusion": "72.8 192.9 287.8 | 145.0 397.0 602.3 | 0.72 0.69 0.75 | "
    "0.615 1.006 1.340 | 0.529 0.770 0.961 | 0.819 1.367 1.715",
    "DYffusion": "96.7 214.8 303.8 | 186.5 437.0 633.7 | 0.92 0.89 0.93 | "
    "0.788 1.196 1.519 | 0.709 0.988 1.178 | 0.961 1.552 1.891",
    "Graph-EFM": "132.6 252.7 317.5 | 287.4 551.6 699.1 | 1.17 1.18 1.13 | "
    "0.893 1.315 1.561 | 0.714 0.990 1.145 | 1.240 1.721 1.926",
    "deterministic 6h": "128.4 327.1 483.8 | 189.8 509.7 766.7 | - - - | "
    "0.928 1.669 2.360 | 0.828 1.308 1.720 | 1.112 2.215 2.929",
}
PROTOCOL = (
    'data.train=["1979-01-01", "2015-12-31"]',
    'data.validation=["2016-01-01", "2017-12-31"]',
    'data.test=["2018-01-01", "2018-12-31"]',
    "posterior.predict_samples=10",
    "evaluation.starts=360",
    "evaluation.steps=5",
)


def published() -> list[Row]:
    """Return a row for each published model and lead time."""
    rows: list[Row] = []
    for model, text in PUBLISHED.items():
        groups = [group.split() for group in text.split("|")]
        for at, lead in enumerate(LEADS_H):
            values = dict(zip(COLUMNS, (group[at] for group in groups), strict=True))
            rows.append({"model": model, "lead [h]": f"{lead:g}", **values})
    return rows


def ours(scores: StartScores) -> list[Row]:
    """Return the rows of a run, "-" for what it has not."""
    rows: list[Row] = []
    for lead in LEADS_H:
        row: Row = {"model": "this run", "lead [h]": f"{lead:g}"}
        row |= {column: _value(scores, lead, *which) for column, which in COLUMNS.items()}
        rows.append(row)
    return rows


def _value(scores: StartScores, lead: float, name: str, score: str) -> str:
    if lead not in scores.lead_hours or name not in scores.names:
        return "-"
    place = (slice(None), scores.lead_hours.index(lead), scores.names.index(name))
    if score == "crps":
        value = float(scores.values["crps"][place].mean())
    elif score == "rmse":
        value = float(scores.values["mse"][place].sqrt().mean())
    else:
        mean = {key: float(scores.values[key][place].mean()) for key in ("mse", "variance")}
        value = math.sqrt((scores.members + 1) / scores.members * mean["variance"] / mean["mse"])
    return "-" if math.isnan(value) else f"{value:.4g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="pack, zarr store or files, as data.path")
    parser.add_argument("overrides", nargs="*", help="key=value, as of hpc-bnn train")
    parser.add_argument("--run", type=Path, default=Path("runs/weather-5.625"))
    parser.add_argument("--config", type=Path, default=CONFIGS / "swin_era5_5.625.yaml")
    parser.add_argument("-o", "--output", type=Path, default=FOLDER, help="folder of the table")
    arguments = parser.parse_intermixed_args()
    own = {override.partition("=")[0] for override in arguments.overrides}
    protocol = [one for one in PROTOCOL if one.partition("=")[0] not in own]
    path = f"data.path={json.dumps(str(arguments.data.resolve()))}"
    words = [*protocol, path, *arguments.overrides, "--run", str(arguments.run), "--resume"]
    if cli.main(["train", str(arguments.config), *words]):
        raise SystemExit("weather.py: the training failed")
    if cli.main(["evaluate", str(arguments.run)]):
        raise SystemExit("weather.py: the evaluation failed")
    scores = read_start_scores(RunFolder(arguments.run).evaluation_starts)
    publish("weather", [*ours(scores), *published()], folder=arguments.output)
    changed = sorted(own & {one.partition("=")[0] for one in PROTOCOL})
    print(
        f"{len(scores.starts)} start times, {scores.members} members; published: arXiv:2410.05431, "
        "test year 2018, 10 members, means of single start times"
        + (f"; not the same protocol: {', '.join(changed)}" if changed else "")
    )


if __name__ == "__main__":
    main()
