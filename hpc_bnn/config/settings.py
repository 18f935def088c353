"""The settings of a run: what each key means, its type and its default.

The sections ``posterior``, ``model``, ``loss``, ``data``, ``optimizer`` and ``perturb`` choose
something by ``name``; their other keys are the keyword arguments of what was chosen (``options``).
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from hpc_bnn.config.forecast_settings import ForecastSettings, Redraw
from hpc_bnn.config.perturb_settings import PerturbSettings
from hpc_bnn.config.posterior_settings import PosteriorSettings
from hpc_bnn.config.section import Choice, Section
from hpc_bnn.config.values import Rollout, Seconds, Switch

SEED_LIMIT = 1 << 48


class SettingsError(ValueError):
    """Settings that cannot be used; the message lists every error, one a line."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


class GridSettings(Section):
    """How the ranks are laid out."""

    mode: Literal["local", "sample", "data", "hybrid", "auto"] = Field(
        "hybrid",
        description="sample: S = world; data: S = 1; hybrid: S = ranks per node; local: one rank; "
        "auto: the fastest, measured when a run starts",
    )
    sample_ranks: Literal["auto"] | PositiveInt = Field(
        "auto", description="S, ranks of the sample axis; auto: from mode"
    )
    engine: str = Field(
        "auto",
        description="what moves gradients between ranks: horovod; torch: torch.distributed; auto: "
        "Horovod where it is built, else torch; the answer is the same",
    )

    @model_validator(mode="after")
    def _one_choice(self) -> "GridSettings":
        if self.mode == "auto" and self.sample_ranks != "auto":
            raise ValueError(
                f"mode = auto chooses sample_ranks, which is {self.sample_ranks}; leave one out"
            )
        return self


class LossSettings(Choice):
    """The data term of the objective."""

    exact: bool = Field(True, description="false: joint losses see one rank's samples only")
    area_weights: bool = Field(
        True, description="fields: points count by the area of their grid cell; false: equally"
    )
    channel_weights: dict[str, NonNegativeFloat] = Field(
        default_factory=dict, description="fields: by channel, such as {t2m: 1, z500: 0.5}; else 1"
    )


class ModelSettings(Choice):
    """The network."""

    name: str = Field(
        description="the network, or package.module:Class of your own, called as "
        "Class(input_shape, output_shape, **options); its options are further keys"
    )


class DataSettings(Choice):
    """The data set."""

    augmentation: Literal["per_sample", "per_rank", "shared"] = Field(
        "per_sample",
        description="who gets its own random view of the batch; per_rank depends on the grid",
    )
    transform: dict[str, Any] = Field(
        default_factory=dict, description="augmentation by name with its options; {}: none"
    )


class TrainSettings(Section):
    """The training loop."""

    steps: NonNegativeInt = Field(0, description="steps to train; 0: by epochs")
    epochs: NonNegativeInt = Field(0, description="epochs to train; 0: by steps")
    batch_size: PositiveInt = Field(64, description="B, examples per step over the whole grid")
    rollout: Annotated[dict[int, int], Rollout] = Field(
        {0: 1},
        description="fields: steps of the forecasts that are trained on, by first epoch, such as "
        "{0: 1, 10: 4}",
    )
    redraw: Redraw = Field(
        "never",
        description="fields: weights, or masks, of such a forecast: never: kept through it; "
        "each_step: drawn anew at every lead time, as forecast.redraw draws them",
    )
    start_from: str = Field(
        "",
        description="a run folder, its newest checkpoint, or a checkpoint file: its weights are "
        "those this run starts with; the optimizer and the order of examples start anew",
    )
    lr: PositiveFloat = Field(1e-3, description="peak learning rate")
    lr_min: NonNegativeFloat = Field(0.0, description="learning rate at the end of the cosine")
    warmup_steps: NonNegativeInt = Field(0, description="steps of linear warm-up")
    schedule: Literal["constant", "cosine"] = Field("cosine", description="after the warm-up")
    clip_norm: NonNegativeFloat = Field(0.0, description="largest gradient norm; 0: no clipping")
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of a moving average of the weights, such as 0.999, with which the run "
        "is validated, evaluated, forecasts and starts others; 0: none",
    )
    precision: Literal["float32", "bf16", "float64"] = Field(
        "float32", description="bf16: autocast; parameters, KL and accumulators stay float32"
    )
    capture: Annotated[Literal["auto", "on", "off"], Switch] = Field(
        "auto",
        description="run each pass as one CUDA graph; auto: on GPUs, where that is possible; on: "
        "an error where it is not",
    )
    compile: bool = Field(
        False,
        description="run the network of each pass through torch.compile, which takes a "
        "compiler where the run starts; the answer is the same to round-off",
    )
    reduction: Literal["world", "two_stage"] = Field(
        "world", description="gradient reduction: once over the world, or along each axis"
    )
    compression: Literal["none", "fp16", "bf16"] = Field(
        "none", description="of gradients on the wire; Horovod cannot sum bf16"
    )
    guard_every: NonNegativeInt = Field(100, description="steps between guards; 0: first step only")
    check: bool = Field(
        True, description="prove at the first step that the network is a pure function"
    )
    checkpoint_every: NonNegativeInt = Field(
        0, description="steps between checkpoints; 0: at the end"
    )
    snapshot_every: NonNegativeInt = Field(
        0,
        description="steps between snapshots, checkpoints in the memory of each node from which a "
        "job goes on where a rank or node dies; 1: a fault loses at most a step; 0: none",
    )
    snapshot_dir: str = Field(
        "",
        description="folder for snapshots on each node, in memory or on a disk of its own; left "
        "out: /dev/shm/hpc_bnn-USER-JOB",
    )
    keep_checkpoints: PositiveInt = Field(3, description="newest checkpoints that are kept")
    mtbf_hours: PositiveFloat = Field(
        4000.0,
        le=1e9,
        description="hours between two failures of one node, on average, from which the interval "
        "between checkpoints follows that summary.json and the log suggest",
    )
    validate_every: NonNegativeInt = Field(
        0, description="steps between validations; 0: at the end"
    )
    keep_best: bool = Field(
        False, description="keep the checkpoint with the best validation, and predict with it"
    )
    patience: NonNegativeInt = Field(
        0, description="validations in a row without a better one that end the run; 0: none do"
    )
    judge_by: Literal["", "crps", "nll", "fair_crps", "rmse", "brier", "accuracy"] = Field(
        "", description="the score of keep_best and patience; left out: the first that there is"
    )
    log_every: PositiveInt = Field(50, description="steps between log lines")
    track: list[Literal["tensorboard"]] = Field(
        default_factory=list,
        description="what else the metrics are written for, beside metrics.jsonl: [tensorboard] "
        "writes event files; hpc-bnn export does it after a run",
    )
    profile: NonNegativeInt = Field(
        0,
        description="steps, after the first two, of which world rank 0 writes a trace into the run "
        "folder: trace.json, for ui.perfetto.dev; they take longer",
    )
    max_time: Annotated[NonNegativeFloat, Seconds] = Field(
        0.0,
        description="seconds, or a time such as 23:50:00, after which the command writes a "
        "checkpoint and exits with status 85; 0: no limit",
    )
    stall_timeout: NonNegativeFloat = Field(
        0.0,
        description="seconds that ranks wait for one another before the job ends, more than a "
        "checkpoint takes; 0: for ever",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to compute")

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the steps of a run whose epochs have so many."""
        return self.steps or self.epochs * steps_per_epoch

    @property
    def longest_rollout(self) -> int:
        """The largest number of steps of ``rollout``."""
        return max(self.rollout.values())

    @model_validator(mode="after")
    def _one_length(self) -> "TrainSettings":
        if bool(self.steps) == bool(self.epochs):
            raise ValueError("set one of steps and epochs to a positive number, the other to 0")
        if self.patience and not self.validate_every:
            raise ValueError("patience counts validations; set validate_every to a number of steps")
        return self


class OptimizerSettings(Choice):
    """What moves the parameters."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)
    name: str = Field("adam", description="the optimizer; its options are further keys")


class EvaluationSettings(Section):
    """Scores of the test split: how weather is forecast for them, how series are recalibrated."""

    recalibrate: Literal["none", "conformal"] = Field(
        "none",
        description="series: conformal: spreads times what covers 90 % of the validation split at "
        "each lead time and channel",
    )

    steps: NonNegativeInt = Field(
        0, description="lead times; 0: five days, or as far as the test split allows"
    )
    starts: PositiveInt = Field(
        100, description="start times, evenly spaced over the test split; fewer if it has fewer"
    )
    climatology_states: PositiveInt = Field(
        4000, description="states, evenly spaced over the training split, for the climatology"
    )


class Settings(Section):
    """Everything that determines a run."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)  # sections come as dicts
    seed: int = Field(
        0, ge=0, lt=SEED_LIMIT, strict=True, description="key of all noise and initial weights"
    )
    grid: GridSettings = GridSettings()  # type: ignore[call-arg]
    posterior: PosteriorSettings = PosteriorSettings()  # type: ignore[call-arg]
    loss: LossSettings
    model: ModelSettings
    data: DataSettings
    optimizer: OptimizerSettings | None = Field(
        None, description="left out: Adam, or what the posterior brings"
    )
    train: TrainSettings
    forecast: ForecastSettings = ForecastSettings()  # type: ignore[call-arg]
    perturb: PerturbSettings | None = Field(
        None, description="left out: forecasts begin with the states as they are"
    )
    evaluation: EvaluationSettings = EvaluationSettings()  # type: ignore[call-arg]
