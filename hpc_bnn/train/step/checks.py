"""What a training step refuses: sizes and optimizers that do not fit, and a result that is not
finite.
"""

import inspect
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hpc_bnn.bayes.inputs import Inputs, count_examples, tensors_of
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.losses.base import JointLoss, Loss
from hpc_bnn.train.step.settings import StepSettings


def check_sizes(
    posterior: Posterior, loss: Loss, settings: StepSettings, parts: Sequence[range]
) -> None:
    """Raise ValueError unless posterior and loss can do with so many samples and examples.

    Of the samples, a joint loss that is not exact sees only the own ones, those of ``parts``.
    """
    samples, num_examples = settings.samples, settings.num_examples
    if num_examples < 1:
        raise ValueError(f"num_examples = {num_examples}: must be the size of the training set")
    posterior.check_samples(samples, samples_per_pass=len(parts[0]))
    if settings.redraw != "never" and (posterior.members is not None or not posterior.draws):
        raise ValueError(
            f"train.redraw = {settings.redraw!r}: the samples of {type(posterior).__name__} are "
            "members that are trained, so there are no others to draw; leave it out"
        )
    if settings.ema and posterior.predicts_collected:
        raise ValueError(
            f"train.ema = {settings.ema}: {type(posterior).__name__} predicts with what it "
            "collects of the weights, so that a moving average would never be used; set it to 0"
        )
    seen = samples if settings.exact else sum(map(len, parts))
    if isinstance(loss, JointLoss) and seen < loss.min_samples:
        raise ValueError(
            f"posterior.samples = {samples}: {type(loss).__name__} needs at least "
            f"{loss.min_samples} weight samples" + ("" if settings.exact else " on each rank")
        )
    for name in posterior.names if len(parts[0]) > 1 else ():
        layer = posterior.module.get_submodule(name.rpartition(".")[0])
        if getattr(layer, "sparse", False) is True:
            raise ValueError(
                f"posterior.samples_per_pass = {len(parts[0])}: {name} is random and has sparse "
                "gradients, which torch.vmap cannot take; set sparse=False in its layer, or "
                "samples_per_pass to 1"
            )


def check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError unless a step can be taken by ``optimizer.step()`` on reduced gradients."""
    name = type(optimizer).__name__
    if hasattr(optimizer, "skip_synchronize"):
        raise ValueError(
            f"the optimizer is Horovod's DistributedOptimizer around {name}, and hb.Step reduces "
            f"gradients itself; give it the {name}"
        )
    if isinstance(optimizer, torch.optim.SparseAdam):
        raise ValueError(
            "the optimizer is SparseAdam, which takes sparse gradients only; hb.Step "
            "makes all of them dense: use Adam"
        )
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"the optimizer is {name}, whose step evaluates the objective several times (a "
            "closure), which hb.Step does not; use one whose step() needs none, such as Adam or SGD"
        )


def check_batch(x: Inputs, y: object) -> None:
    """Raise ValueError for a batch without examples, without one tensor of targets, or with inputs
    that want a gradient of their own, and RuntimeError where torch makes no gradients.
    """
    if not torch.is_grad_enabled():
        raise RuntimeError(
            "hb.Step trains, and gradients are switched off here (torch.no_grad, inference_mode or "
            "set_grad_enabled): call the step outside of it; to judge, use posterior.predict"
        )
    if not isinstance(y, Tensor):
        raise ValueError(
            f"y is a {type(y).__name__}: a loss takes one tensor of targets (B, ...); make one of "
            "it in the data set"
        )
    if count_examples(x) == 0:
        raise ValueError("x holds no examples: every rank must get equally many, at least one")
    if any(tensor.requires_grad for tensor in tensors_of(x)):
        raise ValueError(
            "x requires a gradient, and hb.Step trains the weights of the posterior and the loss "
            "only: make what computes x a part of the network, or give x.detach()"
        )


def check_finite_inputs(x: Inputs) -> None:
    """Raise ValueError for the first example of a batch that is not finite."""
    for tensor in tensors_of(x):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            bad = ~tensor.isfinite().reshape(len(tensor), -1).all(1)
            raise ValueError(
                f"x of example {int(bad.nonzero()[0])} of this rank's batch holds numbers that are "
                "not finite; correct it or leave it out of the data set"
            )


def refuse_divergence(
    step: int, loss: float, norm: float, named: Mapping[str, Tensor], members: Sequence[int]
) -> None:
    """Raise FloatingPointError for a loss or a norm of the gradient that is not finite.

    named: the parameters by name; the first with a bad gradient is told.
    members: those that diverged.
    """
    bad = [name for name, p in named.items() if p.grad is not None and not p.grad.isfinite().all()]
    if members:
        where = f"diverged: member{'s' * (len(members) > 1)} {', '.join(map(str, members))}"
    elif bad:
        where = f"first parameter with a non-finite gradient: {bad[0]}"
    else:
        where = "all gradients are finite"
    raise FloatingPointError(
        f"step {step}: loss = {loss}, gradient norm = {norm}; {where}; the parameters are those "
        "before this step. Lower train.lr or posterior.initial_sigma, or set train.clip_norm"
    )
