"""What a training step is set to: one record for the step, its guards, the estimate of its memory
and the probe of its time.
"""

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args

import torch
from torch import Tensor

from hpc_bnn.bayes.inputs import Inputs, map_tensors
from hpc_bnn.config.forecast_settings import Redraw
from hpc_bnn.data.augment import Augmentation
from hpc_bnn.losses.objective import kl_factor
from hpc_bnn.parallel.engine import Compression, GradientReduction
from hpc_bnn.train.step.input_noise import InputNoise
from hpc_bnn.train.step.unroll import Unroll

Views = Literal["per_sample", "per_rank", "shared"]
CaptureMode = Literal["auto", "on", "off"]
Precision = Literal["float32", "bf16", "float64"]
CHOICES = {
    "views": Views,
    "precision": Precision,
    "reduction": GradientReduction,
    "compression": Compression,
    "capture": CaptureMode,
    "redraw": Redraw,
}
# Neither objective nor exchanges.
OF_ONE_RANK = ("samples_per_pass", "keep_graphs", "unroll", "capture", "compile")


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """The options of ``hb.Step``.

    Attributes
    ----------
    samples
        K, weight samples per step over the whole grid.
    num_examples
        N, size of the training set, which scales the KL.
    kl_weight, kl_warmup_steps
        Factor of the KL, reached linearly over the first steps.
    samples_per_pass
        Weight samples that share one forward pass by ``torch.vmap``; 1 keeps memory at one network.
    keep_graphs
        Joint losses only: hold the graphs of all own samples instead of running them twice; faster,
        memory of all own samples.
    augment
        An augmentation of ``hpc_bnn.data.augment``.
    views
        ``per_sample``: every weight sample sees its own random view of the batch; ``per_rank``: the
        samples of a sample rank share one, so the run depends on the grid; ``shared``: all do.
    unroll
        Fields: runs the network along the steps of a forecast that a batch has targets for; None:
        inputs are of one step.
    redraw
        Fields: ``each_step``: weights, or masks, of a rollout are drawn anew at each lead time;
        ``never``: kept.
    input_noise
        Fields: noise on the states of inputs (``hpc_bnn.train.step.input_noise``); None: none. Such
        passes are not captured.
    clip_norm
        Largest norm of the reduced gradient; None: no clipping.
    ema
        Decay of a moving average of what is trained (``hpc_bnn.train.step.ema``), at least 0 and
        less than 1; 0: none. ``with step.averaged()`` predicts with it.
    precision
        ``bf16`` runs the network under autocast; parameters, KL and accumulators stay float32.
    capture
        On GPUs, run each pass as one CUDA graph (``hpc_bnn.train.step.capture``): ``auto`` where
        that is possible, and the log says why where it is not; ``on``: else raise ValueError;
        ``off``.
    compile
        Run the network of each pass through ``torch.compile``.
    exact
        False: joint losses see one rank's samples only (``hpc_bnn.losses.objective``).
    reduction, compression
        How gradients are exchanged (``hpc_bnn.parallel.engine``).
    guard_every
        Steps between guards; they also run at the first step. 0: at the first step only.
    check
        Prove at the first step that the network is a pure function of its weights and input, each
        example by itself (``hpc_bnn.bayes.purity``): about three passes, once.
    """

    samples: int
    num_examples: int
    kl_weight: float = 1.0
    kl_warmup_steps: int = 0
    samples_per_pass: int = 1
    keep_graphs: bool = False
    augment: Augmentation | None = None
    views: Views = "per_sample"
    unroll: Unroll | None = None
    redraw: Redraw = "never"
    input_noise: InputNoise | None = None
    clip_norm: float | None = None
    ema: float = 0.0
    precision: Precision = "float32"
    capture: CaptureMode = "auto"
    compile: bool = False
    exact: bool = True
    reduction: GradientReduction = "world"
    compression: Compression = "none"
    guard_every: int = 100
    check: bool = True

    def __post_init__(self) -> None:
        """Refuse what a settings file could not hold."""
        for name, kind in CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                expected = ", ".join(get_args(kind))
                raise ValueError(f"{name} = {getattr(self, name)!r}: expected one of {expected}")
        if self.compile and self.samples_per_pass > 1:
            raise ValueError(
                f"compile = {self.compile} with samples_per_pass = {self.samples_per_pass}: "
                "torch.compile does not look into torch.vmap; set samples_per_pass to 1"
            )
        for name in ("kl_weight", "kl_warmup_steps", "guard_every"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} = {getattr(self, name)!r}: must be 0 or a positive number"
                )
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm = {self.clip_norm!r}: must be positive; None: no clipping")
        if not 0 <= self.ema < 1:
            raise ValueError(
                f"ema = {self.ema!r}: must be at least 0 and less than 1, such as 0.999; 0: none"
            )

    def kl_factor(self, step: int) -> float:
        """Return the factor of the KL at ``step``."""
        return kl_factor(
            step,
            kl_weight=self.kl_weight,
            warmup_steps=self.kl_warmup_steps,
            num_examples=self.num_examples,
        )

    @property
    def final_kl_factor(self) -> float:
        """The factor of the KL after the warm-up."""
        return self.kl_factor(self.kl_warmup_steps)

    def place(self, x: Inputs, y: Tensor, device: torch.device) -> tuple[Inputs, Tensor]:
        """Return a batch as passes and loss take it: on the device, in the precision of the run,
        the targets of each lead time as examples of their own.
        """

        def placed(tensor: Tensor) -> Tensor:
            tensor = tensor.to(device, non_blocking=True)
            wider = self.precision == "float64" and tensor.is_floating_point()
            return tensor.double() if wider else tensor

        y = placed(y)
        return map_tensors(placed, x), y if self.unroll is None else self.unroll.targets(y)

    @property
    def noise_each_step(self) -> bool:
        """Whether inputs of every step of a rollout have noise of their own."""
        return (
            self.unroll is not None and self.input_noise is not None and self.input_noise.each_step
        )

    def guards_at(self, step: int) -> bool:
        """Tell whether the guards run at ``step``."""
        return step == 0 or bool(self.guard_every and step % self.guard_every == 0)

    def of_all_ranks(self) -> dict[str, object]:
        """Return, as plain values, what ranks may not differ in: they would differ in the objective
        or in the order of their exchanges.
        """
        names = [field.name for field in fields(self) if field.name not in OF_ONE_RANK]
        values = {name: getattr(self, name) for name in names}
        noise = None if self.input_noise is None else self.input_noise.each_step
        return {**values, "augment": type(self.augment).__name__, "input_noise": noise}
