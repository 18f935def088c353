"""One training step on any grid of ranks: draw, forward, loss, backward, reduce, update.

A rank loops over its own weight samples, forward and backward one at a time, so peak memory is that
of one network whatever K is. A joint loss first runs every sample without a graph, takes the loss's
gradient to the outputs, and runs the samples again to pull it back: keyed noise makes the second
run the same as the first. ``keep_graphs`` saves the second run where memory allows.

Letters: S samples of one pass, K samples over the grid, B examples of this rank.
"""

import math

import torch
from torch import Tensor

from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.losses.base import JointLoss, Loss, SeparableLoss, require_loss
from hpc_bnn.losses.objective import joint_share, kl_factor, separable_share
from hpc_bnn.parallel import guards
from hpc_bnn.parallel.comms import together
from hpc_bnn.parallel.engine import Compression, GradientReduction
from hpc_bnn.parallel.world import World
from hpc_bnn.train.checks import check_sizes, require_finite
from hpc_bnn.train.parameters import all_tensors, named_parameters, settings_of
from hpc_bnn.train.passes import Augment, Passes, Precision, Views
from hpc_bnn.train.phases import Phases
from hpc_bnn.train.step_report import Report
from hpc_bnn.train.unroll import Unroll


class Step:
    """A training step: ``loss = step(x, y)`` with this rank's part of the batch.

    Parameters
    ----------
    posterior
        The distribution of the weights; its parameters are those of the optimizer.
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

    Raises
    ------
    ValueError
        If samples, batch or loss do not fit the grid or each other; from a step, if the loss is not
        one finite number an example because of what it is or of a target.
    TypeError
        If the loss is of no kind that a step knows.
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
    ) -> None:
        require_loss(loss)
        self.step = 0
        self.report: Report | None = None
        self._posterior, self._loss = posterior, loss
        self._optimizer, self._world = optimizer, world
        self._samples, self._num_examples = samples, num_examples
        self._kl_weight, self._kl_warmup_steps = kl_weight, kl_warmup_steps
        self._clip_norm, self._precision, self._exact = clip_norm, precision, exact
        self._guard_every = guard_every
        self._keep_graphs, self._unroll = keep_graphs, unroll
        self._phases = Phases(world.device, self._waited)
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
        posterior.to(world.device)
        loss.to(world.device)
        self._named = named_parameters(posterior, loss, optimizer)
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
            "views": views,
            "augment": type(augment).__name__,
            "reduction": reduction,
            "compression": compression,
            **settings_of(posterior, loss, self._named),
        }
        guards.agree(world.world, settings, name="before the first step")
        # Also what is not trained: no reduction would ever make it equal.
        world.broadcast_parameters({**all_tensors(posterior, ""), **all_tensors(loss, "loss.")})
        self._reducer = world.reducer(
            self._named.items(),
            passes=1 if self._one_backward() else len(self._passes.parts),
            reduction=reduction,
            compression=compression,
        )

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Collective: train on this rank's examples and return the objective over the whole grid, a
        scalar.
        """
        self._phases.begin()
        device = self._world.device
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        if self._precision == "float64":
            x = x.double() if x.is_floating_point() else x
            y = y.double() if y.is_floating_point() else y
        if self.step == 0 or (self._guard_every and self.step % self._guard_every == 0):
            self._guard(x, y)
        if self._unroll is not None:
            y = self._unroll.targets(y)
        self._optimizer.zero_grad(set_to_none=True)
        self._phases.enter("forward")
        if isinstance(self._loss, SeparableLoss):
            data_share, kl = self._backward_separable(x, y)
        elif self._one_backward():
            data_share, kl = self._backward_joint_kept(x, y)
        else:
            data_share, kl = self._backward_joint_recomputed(x, y)
        self._phases.enter("communication")
        data_loss = self._data_loss(data_share, len(x))
        self._reducer.wait()
        self._phases.enter("optimizer")
        loss = data_loss + self._kl_factor() * kl
        norm = self._gradient_norm()
        if not math.isfinite(loss):
            together(self._world.world, lambda: self._loss.check_target(y), name="targets")
        require_finite(self.step, loss, float(norm), self._named)
        if self._clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self._named.values(), self._clip_norm, norm)
        self._optimizer.step()
        phases = self._phases.end()
        took = sum(phases.values())
        self.report = Report(self.step, loss, data_loss, kl, float(norm), took, phases)
        self.step += 1
        return torch.tensor(loss, dtype=torch.float64)

    def _backward_separable(self, x: Tensor, y: Tensor) -> tuple[Tensor, float]:
        assert isinstance(self._loss, SeparableLoss)
        total, kl = torch.zeros((), device=x.device), 0.0
        for i, samples in enumerate(self._passes.parts):
            outputs = self._passes.run(x, self.step, samples)
            share = separable_share(self._loss, outputs, y, self._samples)
            objective, kl = self._with_kl(share, i, kl)
            self._backward(objective)
            total = total + share.detach()
        return total, kl

    def _one_backward(self) -> bool:
        """Tell whether one backward call covers all own samples."""
        joint = isinstance(self._loss, JointLoss)
        return len(self._passes.parts) == 1 or (joint and self._keep_graphs)

    def _backward_joint_kept(self, x: Tensor, y: Tensor) -> tuple[Tensor, float]:
        outputs = [self._passes.run(x, self.step, samples) for samples in self._passes.parts]
        share = self._joint(torch.cat(outputs), y)
        objective, kl = self._with_kl(share, 0, 0.0)
        self._backward(objective)
        return share.detach(), kl

    def _backward_joint_recomputed(self, x: Tensor, y: Tensor) -> tuple[Tensor, float]:
        with torch.no_grad():
            outputs = torch.cat(
                [self._passes.run(x, self.step, samples) for samples in self._passes.parts]
            )
        outputs.requires_grad_()
        share = self._joint(outputs, y)
        self._backward(share)
        assert outputs.grad is not None
        gradients = torch.split(outputs.grad, [len(part) for part in self._passes.parts])
        kl = 0.0
        for i, (samples, gradient) in enumerate(zip(self._passes.parts, gradients, strict=True)):
            again = self._passes.run(x, self.step, samples)
            # A scalar whose gradient to the outputs is the loss's: one backward call covers data
            # term and KL.
            objective, kl = self._with_kl((again * (gradient / self._reducer.scale)).sum(), i, kl)
            self._backward(objective)
        return share.detach(), kl

    def _backward(self, objective: Tensor) -> None:
        with self._phases.within("backward"):
            torch.autograd.backward(objective * self._reducer.scale)

    def _joint(self, outputs: Tensor, y: Tensor) -> Tensor:
        assert isinstance(self._loss, JointLoss)
        return joint_share(self._loss, outputs, y, self._world.sample_axis, exact=self._exact)

    def _with_kl(self, share: Tensor, index: int, kl: float) -> tuple[Tensor, float]:
        """Add this rank's share of the KL to the first pass, so that the last one ends with the
        network's gradients.
        """
        if index > 0:
            return share, kl
        term = self._posterior.kl()
        weight = self._kl_factor() / self._world.grid.sample_ranks
        return share + weight * term, float(term.detach())

    def _kl_factor(self) -> float:
        return kl_factor(
            self.step,
            kl_weight=self._kl_weight,
            warmup_steps=self._kl_warmup_steps,
            num_examples=self._num_examples,
        )

    def _data_loss(self, share: Tensor, examples: int) -> float:
        """Collective: return mean_b l_b over the grid, having checked that all ranks hold equally
        many examples.
        """
        grid = self._world.grid
        if isinstance(self._loss, JointLoss) and self._exact:
            share = share / grid.sample_ranks  # every sample rank holds the whole value
        mine = torch.tensor([float(share), examples, examples**2], dtype=torch.float64)
        total, count, squares = self._world.world.all_reduce(
            mine, reduction="sum", name="loss"
        ).tolist()
        if squares * grid.world_size != count**2:
            raise guards.GuardError(
                f"step {self.step}: the ranks hold batches of different sizes (this one "
                f"{examples}, together {int(count)} on {grid.world_size} ranks); every rank must "
                "get equally many examples"
            )
        return float(total / grid.data_ranks)

    def _gradient_norm(self) -> Tensor:
        """Return the norm of the reduced gradient: also what shows that all of it is finite."""
        gradients = [p.grad for p in self._named.values() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def _waited(self) -> float:
        return float(getattr(self._world.sample_axis, "waited_s", 0.0))

    def _guard(self, x: Tensor, y: Tensor) -> None:
        guards.check(
            self._world.world,
            self._world.grid,
            step=self.step,
            parameters=self._named,
            batch=(x, y),
            draw=self._passes.first_draw(self.step),
        )
