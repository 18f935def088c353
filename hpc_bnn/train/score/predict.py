"""Predict what is in no split of a data set, into files: the weight samples are shared out over all
ranks, and the files are the same on any number of them.
"""

import csv
import io
import logging
import math
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import torch

from hpc_bnn.data.new_inputs import NewInputs
from hpc_bnn.data.sharding import part
from hpc_bnn.files import refuse_foreign, write_whole
from hpc_bnn.parallel.world import World
from hpc_bnn.train.score.prediction import (
    ClassPrediction,
    Prediction,
    SeriesPrediction,
    joined,
    predict_inputs,
)
from hpc_bnn.train.score.scoring import examples_at_once
from hpc_bnn.train.score.trained import Trained

log = logging.getLogger(__name__)

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MOST_AT_ONCE = 256  # examples


def predict(
    trained: Trained, world: World, inputs: NewInputs, *, samples: int
) -> Prediction | None:
    """Collective over the world: return what ``samples`` weight samples predict, on world rank 0;
    None elsewhere.

    Raises
    ------
    ValueError
        If the run has fewer weight samples.
    """
    posterior = trained.parts.posterior
    available = posterior.prediction_samples(samples)
    if available < samples:
        raise ValueError(
            f"--samples {samples}: this run has {available} weight samples to predict with; ask "
            f"for at most {available}"
        )
    own = part(samples, world.grid.world_rank, world.grid.world_size)
    shape = trained.parts.loss.output_shape(trained.parts.source.output_shape)
    at_once = examples_at_once(8 * samples * math.prod(shape), MOST_AT_ONCE)
    found: list[Prediction] = []
    for indices in torch.arange(len(inputs.names)).split(at_once):

        def mine(indices: torch.Tensor = indices) -> Prediction | None:
            if not len(own):
                return None
            x = inputs.read(indices)
            return predict_inputs(
                trained.parts, x, own, positions=indices.tolist(), device=world.device
            )

        everyone = world.all_ranks.gather(
            world.all_ranks.together(mine, name="prediction"), name="weight samples"
        )
        if world.is_first:
            found.append(joined([each for each in everyone if each is not None], 0))
    return joined(found, 1) if world.is_first else None


def output_paths(path: Path, *, task: str) -> list[Path]:
    """Return what a prediction into ``path`` writes; refuse what would replace anything but an
    earlier prediction.

    Raises
    ------
    ValueError
        If it is no name of a CSV file.
    OSError
        If a file is there that no prediction wrote, or its folder is not.
    """
    if path.suffix.lower() != ".csv":
        raise ValueError(f"-o {path}: expected the name of a CSV file, such as {path.stem}.csv")
    paths = [path]
    if task != "classification":
        paths += [path.with_name(f"{path.stem}-samples.csv"), path.with_suffix(".png")]
    refuse_foreign(path, "prediction", _is_prediction)
    for other in paths[1:]:
        refuse_foreign(other, "prediction", lambda _: path.is_file())
    return paths


def write_prediction(
    trained: Trained, inputs: NewInputs, prediction: Prediction, paths: Sequence[Path]
) -> None:
    """Write a prediction into ``output_paths``; call it on one rank."""
    source = trained.parts.source
    if isinstance(prediction, ClassPrediction):
        classes = source.classes or tuple(map(str, range(source.output_shape[0])))
        _write(paths[0], _class_rows(inputs, prediction, classes))
        return
    channels = source.scale.channels if source.scale else ("value",)
    _write(paths[0], _quantile_rows(inputs, prediction, channels))
    _write(paths[1], _sample_rows(inputs, prediction, channels))
    from hpc_bnn.verify.ahead_plot import plot_ahead  # draws: seconds of imports

    assert inputs.history is not None and inputs.truth is not None
    plot_ahead(
        inputs.times,
        inputs.history,
        inputs.truth,
        {q: prediction.quantile(q) for q in QUANTILES},
        paths[2],
        names=inputs.names,
        channels=channels,
        units=source.scale.units if source.scale else "",
    )


Row = list[object]


def _quantile_rows(
    inputs: NewInputs, prediction: SeriesPrediction, channels: Sequence[str]
) -> Iterator[Row]:
    yield [*_head(inputs), "mean", "std", *(f"q{100 * q:02.0f}" for q in QUANTILES)]
    columns = [prediction.mean.mean(0), prediction.std(), *map(prediction.quantile, QUANTILES)]
    table = torch.stack(columns, -1)
    yield from _rows(inputs, channels, table)


def _sample_rows(
    inputs: NewInputs, prediction: SeriesPrediction, channels: Sequence[str]
) -> Iterator[Row]:
    yield [*_head(inputs), *(f"sample_{k}" for k in range(len(prediction.samples)))]
    yield from _rows(inputs, channels, prediction.samples.movedim(0, -1))


def _head(inputs: NewInputs) -> list[str]:
    return [*(["series"] if any(inputs.names) else []), "time", "channel"]


def _rows(inputs: NewInputs, channels: Sequence[str], table: torch.Tensor) -> Iterator[Row]:
    """Yield a row for each number of a table (N, P, C, columns)."""
    horizon = table.shape[1]
    for n, p, c in product(*map(range, table.shape[:3])):
        time = inputs.times[n][p - horizon].isoformat()
        which = [inputs.names[n]] if any(inputs.names) else []
        yield [*which, time, channels[c], *(f"{value:.7g}" for value in table[n, p, c].tolist())]


def _class_rows(
    inputs: NewInputs, prediction: ClassPrediction, classes: Sequence[str]
) -> Iterator[Row]:
    facts = ("confidence", "entropy", "mutual_information")
    yield ["image", "class", *facts, *(f"p_{name}" for name in classes)]
    probabilities = prediction.probabilities
    told = torch.stack(
        [probabilities.amax(1), prediction.entropy, prediction.mutual_information], 1
    )
    best = probabilities.argmax(1).tolist()
    numbers = torch.cat([told, probabilities], 1).tolist()
    for name, chosen, row in zip(inputs.names, best, numbers, strict=True):
        yield [name, classes[chosen], *(f"{value:.6g}" for value in row)]


def _write(path: Path, rows: Iterator[Row]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_whole(path, text.getvalue().encode())


def _is_prediction(path: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace") as file:
        head = file.readline()
    return "time,channel,mean,std" in head or head.startswith("image,class,confidence,")
