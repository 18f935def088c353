"""One training step on any grid of ranks: draw, forward, loss, backward, reduce, update.

A rank loops over its own weight samples, forward and backward one at a time, so peak memory is that
of one network whatever K is. A joint loss first runs every sample without a graph, takes the loss's
gradient to the outputs, and runs the samples again to pull it back: keyed noise makes the second
run the same as the first. ``keep_graphs`` saves the second run where memory allows.

Letters: S samples of one pass, K samples over the grid, B examples of this rank.
"""

import logging
import math

import torch
from torch import Tensor

from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.bayes.inputs import Inputs, count_examples, map_tensors, tensors_of
from hpc_bnn.losses.base import JointLoss, Loss, require_loss
from hpc_bnn.losses.objective import kl_factor
from hpc_bnn.parallel import guards
from hpc_bnn.parallel.engine import Compression, GradientReduction
from hpc_bnn.parallel.world import World
from hpc_bnn.train.step.accumulate import Objective, accumulate
from hpc_bnn.train.step.checks import (
    check_finite_inputs,
    check_inputs,
    check_optimizer,
    check_sizes,
    check_sparse,
    require_finite,
)
from hpc_bnn.train.step.gradients import Gradients
from hpc_bnn.train.step.parameters import all_tensors, buffers_of, parameters_of, settings_of
from hpc_bnn.train.step.passes import Augment, Passes, Precision, Views
from hpc_bnn.train.step.phases import Phases
from hpc_bnn.train.step.step_report import Report
from hpc_bnn.train.step.unroll import Unroll

log = logging.getLogger(__name__)


class Step:
    """A training step: ``loss = step(x, y)`` with this rank's part of the batch.

    Parameters
    ----------
    posterior
        The distribution of the weights; its parameters are those of the optimizer. They may be
        frozen, thawed and added between steps, on all ranks alike.
    loss
        One of ``hb.losses`` or a subclass of ``SeparableLoss`` or ``JointLoss``.
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
        An augmentation of ``hpc_bnn.data.augment``; ``views`` says who sees which random view of
        the batch.
    unroll
        Fields: runs the network along the steps of a forecast that a batch has targets for.
    clip_norm
        Largest norm of the reduced gradient; None: no clipping.
    precision
        ``bf16`` runs the network under autocast; parameters, KL and accumulators stay float32.
    exact
        False: joint losses see one rank's samples only (``objective``).
    guard_every
        Steps between guards; they also run at the first step. 0: at the first step only.
    check
        Prove at the first step that the network is a pure function of its weights and input, each
        example by itself (``hpc_bnn.bayes.purity``): about three passes, once.

    Raises
    ------
    ValueError
        If samples, batch or loss do not fit the grid or each other; from a step, if the loss is not
        one finite number an example because of what it is or of a target.
    TypeError
        If the loss is of no kind that a step knows.
    ImpureError
        From the first step, on every rank, if ``check`` finds that the network is not pure.
    FloatingPointError
        From a step whose loss or gradient is not finite; parameters are left as before the step.
    GuardError
        From a step at which ranks violate the contract.
    """

    def __init__(
        self,
        posterior: Gaussian,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        world: World,
        *,
        samples: int,
        num_examples: int,
        kl_weight: float = 1.0,
        kl_warmup_steps: int = 0,
        samples_per_pass: int = 1,
        keep_graphs: bool = False,
        augment: Augment | None = None,
        views: Views = "per_sample",
        unroll: Unroll | None = None,
        clip_norm: float | None = None,
        precision: Precision = "float32",
        exact: bool = True,
        reduction: GradientReduction = "world",
        compression: Compression = "none",
        guard_every: int = 100,
        check: bool = True,
    ) -> None:
        require_loss(loss)
        self.step = 0
        self.report: Report | None = None
        self._posterior, self._loss = posterior, loss
        self._optimizer, self._world = optimizer, world
        self._num_examples = num_examples
        self._kl_weight, self._kl_warmup_steps = kl_weight, kl_warmup_steps
        self._clip_norm, self._precision, self._exact = clip_norm, precision, exact
        self._guard_every, self._check = guard_every, check
        self._unroll = unroll
        self._phases = Phases(world.device, self._waited)
        self._objective = Objective(
            loss, world.sample_axis, samples, exact, keep_graphs, self._phases
        )
        self._passes = Passes(
            posterior,
            world,
            samples=samples,
            samples_per_pass=samples_per_pass,
            augment=augment,
            views=views,
            precision=precision,
            phases=self._phases,
            unroll=unroll,
        )
        check_sizes(
            posterior,
            loss,
            samples=samples,
            own_samples=sum(map(len, self._passes.parts)),
            exact=exact,
            num_examples=num_examples,
        )
        check_optimizer(optimizer)
        check_sparse(posterior, samples_per_pass=len(self._passes.parts[0]))
        posterior.to(world.device)
        loss.to(world.device)
        self._gradients = Gradients(
            posterior,
            loss,
            optimizer,
            world,
            passes=len(self._passes.parts),
            reduction=reduction,
            compression=compression,
        )
        # Ranks that differ in any of these would differ in objective or order of exchanges.
        settings: dict[str, object] = {
            "samples": samples,
            "num_examples": num_examples,
            "kl_weight": kl_weight,
            "kl_warmup_steps": kl_warmup_steps,
            "clip_norm": clip_norm,
            "precision": precision,
            "exact": exact,
            "guard_every": guard_every,
            "check": check,
            "views": views,
            "augment": type(augment).__name__,
            "reduction": reduction,
            "compression": compression,
            **settings_of(posterior, loss, self._gradients.named),
        }
        guards.agree(world.all_ranks, settings, name="before the first step")
        # Also what is not trained: no reduction would ever make it equal.
        world.broadcast_parameters(all_tensors(posterior, loss))

    def __call__(self, x: Inputs, y: Tensor) -> Tensor:
        """Collective: train on this rank's examples and return the objective over the whole grid, a
        scalar.

        ``x`` is what the network takes: a tensor (B, ...), or a tuple, list or dict of such, as the
        data set gives it. ``y`` is what the loss takes, a tensor (B, ...).
        """
        if not isinstance(y, Tensor):
            raise ValueError(
                f"y is a {type(y).__name__}: a loss takes one tensor of targets (B, ...); make one "
                "of it in the data set"
            )
        check_inputs(x)
        self._phases.begin()
        x, y = map_tensors(self._on_device, x), self._on_device(y)
        if self.step == 0 or (self._guard_every and self.step % self._guard_every == 0):
            self._guard(x, y)
        if self._check:
            self._check_network(x)
        if self._unroll is not None:
            y = self._unroll.targets(y)
        self._gradients.begin()
        self._phases.enter("forward")
        kl = 0.0

        def complexity() -> Tensor:
            nonlocal kl
            term = self._posterior.kl()
            kl = float(term.detach())
            return self._kl_factor() / self._world.grid.sample_ranks * term

        data_share = accumulate(
            self._objective,
            self._passes,
            x,
            y,
            step=self.step,
            scale=self._gradients.scale,
            complexity=complexity,
        )
        self._phases.enter("communication")
        data_loss, same = self._data_loss(data_share, count_examples(x))
        self._gradients.reduce(self.step, same)
        self._phases.enter("optimizer")
        loss = data_loss + self._kl_factor() * kl
        norm = self._gradients.norm()
        if not math.isfinite(loss):
            self._world.all_ranks.together(lambda: self._check_numbers(x, y), name="batch")
        require_finite(self.step, loss, float(norm), self._gradients.named)
        if self._clip_norm is not None:
            self._gradients.clip(self._clip_norm, norm)
        self._optimizer.step()
        phases = self._phases.end()
        took = sum(phases.values())
        self.report = Report(self.step, loss, data_loss, kl, float(norm), took, phases)
        self.step += 1
        return torch.tensor(loss, dtype=torch.float64)

    def _on_device(self, tensor: Tensor) -> Tensor:
        tensor = tensor.to(self._world.device, non_blocking=True)
        wider = self._precision == "float64" and tensor.is_floating_point()
        return tensor.double() if wider else tensor

    def _check_numbers(self, x: Inputs, y: Tensor) -> None:
        """Raise ValueError where a loss that is not finite follows from the batch."""
        check_finite_inputs(x)
        self._loss.check_target(y)

    def _check_network(self, x: Inputs) -> None:
        """Collective over the world: prove that the network is pure, or raise on every rank."""
        unused = self._world.all_ranks.together(
            lambda: self._passes.check(x, self.step), name="check of the network"
        )
        self._check = False
        if unused and self._world.is_first:
            log.warning(
                "%d of the random weights reach no output and will only follow the prior: %s",
                len(unused),
                ", ".join(unused),
            )

    def _kl_factor(self) -> float:
        return kl_factor(
            self.step,
            kl_weight=self._kl_weight,
            warmup_steps=self._kl_warmup_steps,
            num_examples=self._num_examples,
        )

    def _data_loss(self, share: Tensor, examples: int) -> tuple[float, list[bool]]:
        """Collective: return mean_b l_b over the grid, having checked that all ranks hold equally
        many examples, and which digests of the gradients are the same on all ranks.
        """
        grid = self._world.grid
        if isinstance(self._loss, JointLoss) and self._exact:
            share = share / grid.sample_ranks  # every sample rank holds the whole value
        counts = [examples, *self._gradients.digests()]
        total, (count, *_), (equal, *same) = guards.total_of(
            self._world.all_ranks, float(share), counts, name="loss"
        )
        if not equal:
            raise guards.GuardError(
                f"step {self.step}: the ranks hold batches of different sizes (this one "
                f"{examples}, together {count} on {grid.world_size} ranks); every rank must "
                "get equally many examples"
            )
        return total / grid.data_ranks, same

    def _waited(self) -> float:
        return self._world.sample_axis.waited_s

    def _guard(self, x: Inputs, y: Tensor) -> None:
        guards.check(
            self._world.all_ranks,
            self._world.grid,
            step=self.step,
            # What is not trained, too: one rank alone may change it. 20 ns an element on a CPU.
            parameters=parameters_of(self._posterior, self._loss),
            buffers=buffers_of(self._posterior, self._loss),
            batch=[*tensors_of(x), y],
            draw=self._passes.first_draw(self.step),
        )
