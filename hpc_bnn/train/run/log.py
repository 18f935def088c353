"""What a run logs: at its start what it is about to do; while it goes, metrics as JSON lines and a
bar on a terminal, or log lines with an ETA in a batch job.
"""

import json
import logging
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.config import Settings
from hpc_bnn.config.settings import TrainSettings
from hpc_bnn.files import write_whole
from hpc_bnn.parallel.world import World
from hpc_bnn.progress import Pace
from hpc_bnn.train.run.build import Parts

log = logging.getLogger(__name__)


class Metrics:
    """``metrics.jsonl``: one object a line. A resumed run first cuts off what lies after its
    checkpoint.

    The system has each row at once: where a process is killed, the file tells how many steps it had
    made (where a node fails, those until the last checkpoint).

    Non-finite numbers are written as null: JSON has no others.
    """

    def __init__(self, path: Path, *, first_step: int) -> None:
        kept = [line for line in _lines(path) if _step_of(line) < first_step]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, "".join(f"{line}\n" for line in kept).encode())
        self._file = path.open("a", encoding="utf-8", buffering=1)  # a line

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one object."""
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in row.items()
        }
        self._file.write(json.dumps(finite) + "\n")

    def flush(self) -> None:
        """Make all rows so far durable; call it before each checkpoint."""
        self._file.flush()
        self.sync()

    def sync(self) -> None:
        """Make durable what the system has already, each row at once; any thread may call it."""
        if not self._file.closed:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write what is left."""
        self.flush()
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a metrics file up to the first line that is none: one that was cut
    short, or what a node that lost its power left behind the last one.
    """
    rows = []
    for line in _lines(path):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if not isinstance(row, dict):
            break
        rows.append(row)
    return rows


def is_validated(path: Path, step: int) -> bool:
    """Tell whether a metrics file holds the scores of a validation after ``step``."""
    return any(
        row.get("step") == step and any(key.startswith("validation_") for key in row)
        for row in read_metrics(path)
    )


def last_loss(path: Path) -> float:
    """Return the newest loss of a metrics file, NaN where there is none or it was not finite."""
    losses = [row["loss"] for row in read_metrics(path) if "loss" in row]
    return float(losses[-1]) if losses and losses[-1] is not None else math.nan


def log_start(
    world: World, settings: Settings, parts: Parts, *, steps: range, steps_per_epoch: int
) -> None:
    """Log what a run is about to do: its grid, its weights and its steps."""
    grid, posterior = world.grid, parts.posterior
    log.info(
        "grid %d sample ranks x %d data ranks on %d node(s), device %s, engine %s",
        grid.sample_ranks,
        grid.data_ranks,
        world.num_nodes,
        world.device,
        world.engine_name or "none",
    )
    random = sum(posterior.module.get_parameter(name).numel() for name in posterior.names)
    log.info(
        "%d random weights in %d tensors, %d samples a step (%d a rank), %d training examples",
        random,
        len(posterior.names),
        settings.posterior.samples,
        settings.posterior.samples // grid.sample_ranks,
        len(parts.source.train),
    )
    log.info("steps %d to %d, %d an epoch", steps.start, steps.stop, steps_per_epoch)
    if settings.train.ema:
        log.info("validated with a moving average of the weights, decay %g", settings.train.ema)
    for epoch, longer in settings.train.rollout.items() if parts.unroll else ():
        at = epoch * steps_per_epoch
        never = "" if at < steps.stop else ", which this run does not reach"
        log.info("rollouts of %d from epoch %d (step %d) on%s", longer, epoch, at, never)
    for problem in unsuitable(settings.train, posterior) if world.is_first else ():
        log.warning("%s", problem)


def unsuitable(training: TrainSettings, posterior: Posterior) -> list[str]:
    """Return what the settings do to a method that needs gradients or a rate as they are."""
    name, problems = type(posterior).__name__, []
    falls = training.schedule != "constant" and training.lr_min < training.lr
    if posterior.predicts_collected and falls:
        problems.append(
            f"train.schedule = {training.schedule}: the rate falls to {training.lr_min:g}, and "
            f"what {name} collects with it hardly differs; set train.schedule=constant"
        )
    if training.clip_norm and posterior.optimizer(training.lr) is not None:
        problems.append(
            f"train.clip_norm = {training.clip_norm:g}: where gradients are clipped, {name} "
            "samples another distribution than the posterior; set it to 0"
        )
    return problems


class StepProgress:
    """A tqdm bar where somebody watches, on a terminal or in a notebook, else one log line with an
    ETA every ``log_every`` steps.
    """

    def __init__(self, *, total: int, first: int, log_every: int, is_first_rank: bool) -> None:
        self._total, self._log_every = total, log_every
        self._speaks, self._validation = is_first_rank, ""
        self._pace = Pace(total, done=first)
        watched = sys.stderr.isatty() or "ipykernel" in sys.modules
        shows = is_first_rank and watched and log.isEnabledFor(logging.INFO)
        self._bar = tqdm(total=total, initial=first, unit="step") if shows else None

    def log(self, done: int, loss: float) -> None:
        """Report that ``done`` steps are finished."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss={loss:.4g}{self._validation}", refresh=False)
            self._bar.update(1)
        elif self._speaks and (done % self._log_every == 0 or done == self._total):
            each, left = self._pace.at(done)
            log.info(
                "step %d of %d, loss %.5g, %.3g s/step, ETA %s",
                done,
                self._total,
                loss,
                each,
                left,
            )

    def validated(self, done: int, scores: str) -> None:
        """Report a validation after ``done`` steps, which the bar shows from now on."""
        self._validation = f", validation {scores}"
        if self._bar is None and self._speaks:
            log.info("validation after step %d: %s", done, scores)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []


def _step_of(line: str) -> float:
    """Return the step of a row; what is no row, such as a line that was cut short, counts as after
    every step, so that it goes.
    """
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf
