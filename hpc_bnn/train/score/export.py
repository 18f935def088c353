"""A run for other tools, after it has ended, by files alone: the rows of its metrics as CSV or as
event files of TensorBoard, or the whole run in a file store of MLflow.
"""

import csv
import importlib.util
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpc_bnn.config import Settings, dump_settings
from hpc_bnn.files import refuse_foreign, write_whole
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.log import read_metrics
from hpc_bnn.train.run.track import TensorBoard, missing_package, scalars

Row = Mapping[str, Any]
EXPERIMENT = "hpc_bnn"
MOST_METRICS, MOST_PARAMETERS, LONGEST_VALUE = 1000, 100, 6000  # of a call of MLflow


def export_run(folder: RunFolder, *, to: str, output: Path) -> str:
    """Write a run for another tool and say what was written.

    Raises
    ------
    ValueError
        If the run has no steps yet, or the package of the tool is not installed.
    OSError
        If the folder holds no run, or the output would replace something else.
    """
    settings = folder.settings()
    rows = read_metrics(folder.metrics)
    if not rows:
        raise ValueError(f"{folder.metrics}: holds no rows; train first")
    package, write = EXPORTS[to]
    if package and importlib.util.find_spec(package) is None:
        raise ValueError(f"--to {to}: {package} {missing_package(to)}")
    return write(folder, settings, rows, output)


def _csv(folder: RunFolder, settings: Settings, rows: Sequence[Row], output: Path) -> str:
    """Write a line for each row; what one does not hold is empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    refuse_foreign(output, "export", lambda path: _begins_with(path, columns[0]))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_whole(output, text.getvalue().encode())
    return f"{output}: {len(rows)} rows, {len(columns)} columns"


def _tensorboard(folder: RunFolder, settings: Settings, rows: Sequence[Row], output: Path) -> str:
    if any(output.glob("events.out.tfevents.*")):
        raise FileExistsError(
            f"{output}: holds event files already, beside which these would count twice; remove "
            "them, or give another folder"
        )
    writer = TensorBoard(output, first_step=0, settings=dump_settings(settings))
    for row, at_s in zip(rows, _times_s(folder, rows), strict=True):
        writer.write(row, at_s=at_s)
    writer.close()
    return f"{output}: {len(rows)} rows; look at them with tensorboard --logdir {output}"


def _mlflow(folder: RunFolder, settings: Settings, rows: Sequence[Row], output: Path) -> str:
    """Write settings as parameters, metrics with their steps, scores, versions as tags, and the
    files of the run but its checkpoints.
    """
    # MLflow asks for this word before it writes to files instead of to a server or a database.
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.tracking import MlflowClient

    store = output.resolve().as_uri()
    client = MlflowClient(tracking_uri=store)
    held = client.get_experiment_by_name(EXPERIMENT)
    experiment = held.experiment_id if held else client.create_experiment(EXPERIMENT)
    times_ms = [int(1000 * at_s) for at_s in _times_s(folder, rows)]
    name = folder.path.resolve().name
    run_id = client.create_run(experiment, times_ms[0], run_name=name).info.run_id
    metrics = [
        Metric(tag, value, at_ms, int(row["step"]))
        for row, at_ms in zip(rows, times_ms, strict=True)
        for tag, value in scalars(row)
    ]
    evaluation, summary = (_content(path) for path in (folder.evaluation, folder.summary))
    scored = int(evaluation.get("step") or 0)
    metrics += [
        Metric(tag, value, times_ms[-1], scored)
        for tag, value in _flat_numbers("test", evaluation.get("scores"))
    ]
    parameters = [
        Param(key, str(value)[:LONGEST_VALUE])
        for key, value in _flat("", settings.model_dump(mode="json"))
    ]
    versions = summary.get("versions") or {}
    for first in range(0, len(metrics), MOST_METRICS):
        client.log_batch(run_id, metrics=metrics[first : first + MOST_METRICS])
    for first in range(0, len(parameters), MOST_PARAMETERS):
        client.log_batch(run_id, params=parameters[first : first + MOST_PARAMETERS])
    client.log_batch(run_id, tags=[RunTag(f"version.{k}", str(v)) for k, v in versions.items()])
    for file in (folder.config, folder.metrics, folder.summary, folder.evaluation):
        if file.is_file():
            client.log_artifact(run_id, str(file))
    for picture in sorted(folder.plots.glob("*.png")):
        client.log_artifact(run_id, str(picture), "plots")
    client.set_terminated(run_id, "FINISHED" if summary else "KILLED", times_ms[-1])
    return (
        f"{output}: run {run_id} of experiment {EXPERIMENT}; look at it with "
        f"MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {store}"
    )


Export = Callable[[RunFolder, Settings, Sequence[Row], Path], str]
EXPORTS: dict[str, tuple[str, Export]] = {
    "csv": ("", _csv),
    "tensorboard": ("tensorboard", _tensorboard),
    "mlflow": ("mlflow", _mlflow),
}


def _times_s(folder: RunFolder, rows: Sequence[Row]) -> list[float]:
    """Return about when each row was made, seconds since 1970: the last one when the file was
    written, those before it by the duration of steps.
    """
    elapsed, times = 0.0, []
    for row in rows:
        elapsed += (row.get("step_time_s") or 0.0) + (row.get("data_wait_time_s") or 0.0)
        times.append(elapsed)
    end = folder.metrics.stat().st_mtime
    return [end - elapsed + time for time in times]


def _flat(prefix: str, tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", value


def _flat_numbers(prefix: str, value: object) -> Iterator[tuple[str, float]]:
    """Yield the numbers of nested scores by path, of lists each with its place."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key != "rank_histogram":
                yield from _flat_numbers(f"{prefix}/{key}", part)
    elif isinstance(value, list):
        for place, part in enumerate(value):
            yield from _flat_numbers(f"{prefix}/{place}", part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield prefix, float(value)


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _begins_with(path: Path, name: str) -> bool:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline().split(",")[0] == name
