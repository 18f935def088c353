"""The state of a run: gathered from the ranks that hold it, and given back to them on any grid.

What is shared lies on every rank. Of what is per-sample a rank holds the rows of its own weight
samples; a checkpoint holds all rows (K, ...), by the global index of the weight sample.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.bayes.rows import Rows
from hpc_bnn.group import ALONE, Group
from hpc_bnn.train.run.checkpoint import Checkpoint, CheckpointError, OtherModelError
from hpc_bnn.train.run.transfer import collect_rows, hand_out
from hpc_bnn.train.step.ema import EMA
from hpc_bnn.train.step.parameters import parameters_of

Optimizer = torch.optim.Optimizer


def gather_posterior(posterior: Posterior, sample: Group) -> dict[str, Tensor]:
    """Collective over the sample axis: return parameters and buffers, with all rows on its first
    rank and outlines of them elsewhere.
    """
    return {name: _gathered(value, sample, name) for name, value in posterior.saved().items()}


def gather_optimizer(optimizer: Optimizer, posterior: Posterior, sample: Group) -> dict[str, Any]:
    """Collective over the sample axis: return the state dict, with rows as ``gather_posterior``."""
    state = optimizer.state_dict()
    for number, rows in _per_sample_numbers(optimizer, posterior).items():
        own = state["state"].get(number, {})
        state["state"][number] = {
            key: _gathered(Rows(value, rows.samples), sample, f"optimizer: {number}.{key}")
            if isinstance(value, Tensor) and value.shape[:1] == rows.tensor.shape[:1]
            else value
            for key, value in own.items()
        }
    return state


def gather_ema(ema: EMA | None, posterior: Posterior, sample: Group) -> dict[str, Any]:
    """Collective over the sample axis: return moving averages, with rows as ``gather_posterior``;
    nothing of None.
    """
    if ema is None:
        return {}
    weights = {
        name: _gathered(value, sample, f"average of {name}")
        for name, value in _rows(posterior, ema.weights).items()
    }
    return {"decay": ema.decay, "steps": ema.steps, "weights": weights}


def _rows(posterior: Posterior, tensors: Mapping[str, Tensor]) -> dict[str, Tensor | Rows]:
    per_sample = set(posterior.per_sample())
    return {
        name: Rows(tensor, posterior.own_samples) if name in per_sample else tensor
        for name, tensor in tensors.items()
    }


def _gathered(value: Tensor | Rows, sample: Group, name: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    return collect_rows(value, sample, name=f"checkpoint: {name}")


def _per_sample_numbers(optimizer: Optimizer, posterior: Posterior) -> dict[int, Rows]:
    """Return the per-sample parameters by their number in the state of the optimizer."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    named, per_sample = dict(posterior.named_parameters()), posterior.per_sample()
    own = {id(named[name]) for name in per_sample if name in named}
    return {
        number: Rows(p.detach(), posterior.own_samples)
        for number, p in enumerate(parameters)
        if id(p) in own
    }


def outline(checkpoint: Checkpoint) -> Checkpoint:
    """Return what a checkpoint is without what its tensors hold: they are on the meta device."""

    def emptied(tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    content = {name: mapped(value, emptied) for name, value in vars(checkpoint).items()}
    return Checkpoint(**content)


def restore(
    path: Path,
    checkpoint: Checkpoint,
    posterior: Posterior,
    loss: nn.Module,
    optimizer: Optimizer | None,
    all_ranks: Group = ALONE,
) -> None:
    """Collective: put a checkpoint's state into a run's parts; None: not the optimizer's.

    checkpoint: whole on rank 0, its outline suffices elsewhere.

    Raises
    ------
    CheckpointError
        If it belongs to another model; the message names the first tensor that does not fit.
    """
    parts = (
        ("posterior", posterior.saved(), checkpoint.posterior),
        ("loss", loss.state_dict(), checkpoint.loss),
    )
    members = posterior.members or 0

    def require_same_model() -> None:
        for part, targets, state in parts:
            problem = _mismatch(targets, state, members)
            if problem:
                raise OtherModelError(
                    f"{path}: checkpoint of another model: {part}.{problem}; use the settings it "
                    "was trained with (config.yaml beside its folder) or another run folder"
                )

    all_ranks.together(require_same_model, name="restoring the checkpoint")
    for part, targets, state in parts:
        for name, target in targets.items():
            hand_out(all_ranks, target, state[name], name=f"checkpoint: {part}.{name}")
    if optimizer is None:
        return
    per_sample = _per_sample_numbers(optimizer, posterior)

    def received(tensor: Tensor, rows: Rows | None = None) -> Tensor:
        if rows is None or tensor.shape[:1] != (members,):
            own = torch.empty(tensor.shape, dtype=tensor.dtype)
            hand_out(all_ranks, own, tensor, name="checkpoint: optimizer")
        else:
            own = torch.empty((len(rows.tensor), *tensor.shape[1:]), dtype=tensor.dtype)
            hand_out(all_ranks, Rows(own, rows.samples), tensor, name="checkpoint: optimizer")
        return own

    moments = dict(checkpoint.optimizer)
    state = {
        number: mapped(each, partial(received, rows=per_sample.get(number)))
        for number, each in moments.pop("state", {}).items()
    }
    moments = {**mapped(moments, received), "state": state}

    def put() -> None:
        try:
            optimizer.load_state_dict(moments)
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"{path}: checkpoint of another optimizer ({error}); use the settings it was "
                "trained with (config.yaml beside its folder) or another run folder"
            ) from error

    all_ranks.together(put, name="restoring the optimizer")


def restore_ema(
    path: Path,
    checkpoint: Checkpoint,
    posterior: Posterior,
    loss: nn.Module,
    ema: EMA | None,
    all_ranks: Group = ALONE,
) -> None:
    """Collective: put the moving averages of a checkpoint into those of a run; None: into the
    parameters, to predict with them.

    Raises
    ------
    CheckpointError
        If they are the averages of other parameters.
    """
    saved: Mapping[str, Tensor] = checkpoint.ema["weights"]
    here = parameters_of(posterior, loss) if ema is None else ema.weights

    def require_same_parameters() -> None:
        other = saved.keys() - here.keys() if ema is None else saved.keys() ^ here.keys()
        if other:
            raise CheckpointError(
                f"{path}: moving averages of other parameters: {min(other)} is on one side only; "
                "use the settings it was trained with (config.yaml beside its folder)"
            )

    all_ranks.together(require_same_parameters, name="restoring the moving average")
    for name, target in _rows(posterior, {name: here[name] for name in saved}).items():
        hand_out(all_ranks, target, saved[name], name=f"checkpoint: average of {name}")
    if ema is not None:
        ema.steps = checkpoint.ema["steps"]


def mapped(value: Any, action: Callable[[Tensor], Tensor]) -> Any:
    """Return nested containers with ``action`` done to every tensor, in their order."""
    if isinstance(value, Tensor):
        return action(value)
    if isinstance(value, Mapping):
        return {key: mapped(item, action) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(mapped(item, action) for item in value)
    return value


def _mismatch(
    targets: Mapping[str, Tensor | Rows], state: Mapping[str, Tensor], members: int
) -> str:
    for name, target in targets.items():
        if name not in state:
            return f"{name} is missing from it"
        saved = state[name]
        tensor = target if isinstance(target, Tensor) else target.tensor
        shape = tuple(tensor.shape)
        if isinstance(target, Rows):
            shape = (members, *shape[1:])
        if tuple(saved.shape) != shape or saved.dtype != tensor.dtype:
            return (
                f"{name} is {tuple(saved.shape)} {saved.dtype} in it, {shape} {tensor.dtype} here"
            )
    return next((f"{name} has no place here" for name in state if name not in targets), "")
