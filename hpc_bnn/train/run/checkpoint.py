"""Checkpoints: one file for the whole world, atomic, checksummed, readable on any grid.

``step-XXXXXXXX.pt`` is a ``torch.save`` file of plain containers and tensors (``weights_only=True``
reads it). It holds everything a run is: parameters, optimizer, the number of finished steps, from
which the position in the data follows, the settings, and a sha256 over all of it. There is no
random state to save: noise is keyed.

A file appears by rename after fsync, so it is whole or absent. Resume takes the newest good one.
One rank reads it, the others get tensor by tensor from it: nobody holds a second copy of all of it.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpc_bnn.files import free_space, whole_file
from hpc_bnn.group import ALONE, Group
from hpc_bnn.lock import LockError

log = logging.getLogger(__name__)

FORMAT = 1
PATTERN = re.compile(r"step-(\d{8})\.pt")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read or used; the message says what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """What is saved.

    Attributes
    ----------
    step
        Number of finished steps.
    position
        Where the data stand: epoch and cursor of the next batch; and what the order of the examples
        follows from: seed, batch size and number of examples.
    posterior, loss, optimizer
        State dicts.
    settings
        The resolved settings as YAML.
    versions
        Versions of what wrote the file.
    """

    step: int
    position: Mapping[str, int]
    posterior: Mapping[str, Tensor]
    loss: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    settings: str
    versions: Mapping[str, str]


def save(
    folder: Path,
    checkpoint: Checkpoint,
    *,
    keep: int,
    require_own: Callable[[], None] | None = None,
) -> Path:
    """Write ``checkpoint`` and delete all but the newest ``keep``; call it on one rank.

    require_own: raises where the folder is no longer this job's; asked before the file is made, and
    again before it appears, since a job may be frozen in between.

    Raises
    ------
    CheckpointError
        If the file cannot be written, for example on a full disk; earlier checkpoints stay as they
        are.
    """
    path = folder / f"step-{checkpoint.step:08d}.pt"
    if require_own is not None:
        require_own()
    content = {"format": FORMAT, **vars(checkpoint)}
    content["sha256"] = digest(content)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path, rivals=True, check=require_own) as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        if isinstance(error, LockError):
            raise
        raise CheckpointError(
            f"{path}: cannot write the checkpoint ({error}); {free_space(folder)}. Earlier "
            "checkpoints are unharmed: free space or fix permissions, then resume"
        ) from error
    # A later file than the one just written is damaged, or the run would have resumed from it.
    for old in [other for other in available(folder) if other.name <= path.name][:-keep]:
        old.unlink(missing_ok=True)
    return path


def available(folder: Path) -> list[Path]:
    """Return the checkpoint files of a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if PATTERN.fullmatch(path.name))


def newest_good(folder: Path) -> tuple[Path, Checkpoint] | None:
    """Return the newest checkpoint that is whole, warning about each newer one that is not; None if
    there are none.

    Raises
    ------
    CheckpointError
        If there are checkpoints and all are damaged.
    """
    paths = available(folder)
    for path in reversed(paths):
        try:
            return path, load(path)
        except CheckpointError as error:
            log.warning("%s; falling back to the one before", error)
    if paths:
        raise CheckpointError(
            f"{folder}: all {len(paths)} checkpoints are damaged; restore one or start in "
            "another run folder"
        )
    return None


def load(path: Path) -> Checkpoint:
    """Read and verify a checkpoint; tensors are on the CPU, in pages of the file that come with
    their first use.

    Raises
    ------
    CheckpointError
        If the file is truncated, changed or of another format.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint") from error
    except Exception as error:  # a damaged archive fails in many ways
        text = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: damaged or truncated checkpoint ({text})") from error
    if not isinstance(content, dict) or "sha256" not in content:
        raise CheckpointError(f"{path}: not a checkpoint of hpc_bnn")
    expected = content.pop("sha256")
    if content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: format {content.get('format')!r}, this version reads {FORMAT}; use the "
            "version that wrote it"
        )
    if digest(content) != expected:
        raise CheckpointError(f"{path}: damaged checkpoint (its sha256 does not match its content)")
    del content["format"]
    names = {field.name for field in fields(Checkpoint)}
    for what, keys in (("lacks", names - set(content)), ("has unknown", set(content) - names)):
        if keys:
            listed = ", ".join(sorted(map(repr, keys)))
            raise CheckpointError(
                f"{path}: {what} {listed}: expected {', '.join(sorted(names))}; use the version "
                "that wrote it"
            )
    return Checkpoint(**content)


def outline(checkpoint: Checkpoint) -> Checkpoint:
    """Return what a checkpoint is without what its tensors hold: they are on the meta device."""

    def emptied(tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    content = {name: _mapped(value, emptied) for name, value in vars(checkpoint).items()}
    return Checkpoint(**content)


def restore(
    path: Path,
    checkpoint: Checkpoint,
    posterior: nn.Module,
    loss: nn.Module,
    optimizer: torch.optim.Optimizer | None,
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
        ("posterior", posterior, checkpoint.posterior),
        ("loss", loss, checkpoint.loss),
    )

    def require_same_model() -> None:
        for part, module, state in parts:
            problem = _mismatch(module.state_dict(), state)
            if problem:
                raise CheckpointError(
                    f"{path}: checkpoint of another model: {part}.{problem}; use the settings it "
                    "was trained with (config.yaml beside its folder) or another run folder"
                )

    all_ranks.together(require_same_model, name="restoring the checkpoint")
    for part, module, state in parts:
        for name, tensor in module.state_dict().items():
            _receive(all_ranks, tensor, state[name], name=f"checkpoint: {part}.{name}")
    if optimizer is None:
        return

    def received(tensor: Tensor) -> Tensor:
        own = torch.empty(tensor.shape, dtype=tensor.dtype)
        _receive(all_ranks, own, tensor, name="checkpoint: optimizer")
        return own

    moments = _mapped(checkpoint.optimizer, received)

    def put() -> None:
        try:
            optimizer.load_state_dict(moments)
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"{path}: checkpoint of another optimizer ({error}); use the settings it was "
                "trained with (config.yaml beside its folder) or another run folder"
            ) from error

    all_ranks.together(put, name="restoring the optimizer")


@torch.no_grad()
def _receive(all_ranks: Group, target: Tensor, source: Tensor, *, name: str) -> None:
    """Collective: overwrite ``target`` with the ``source`` of rank 0, an outline elsewhere.

    A target on the CPU is filled in place, without a copy.
    """
    if all_ranks.rank == 0:
        all_ranks.broadcast_tensor(source.contiguous(), name=name)
        target.copy_(source)
        return
    in_place = target.device.type == "cpu" and target.is_contiguous()
    content = target if in_place else torch.empty(target.shape, dtype=target.dtype)
    all_ranks.broadcast_tensor(content, name=name)
    if not in_place:
        target.copy_(content)


def _mapped(value: Any, action: Callable[[Tensor], Tensor]) -> Any:
    """Return nested containers with ``action`` done to every tensor, in their order."""
    if isinstance(value, Tensor):
        return action(value)
    if isinstance(value, Mapping):
        return {key: _mapped(item, action) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(item, action) for item in value)
    return value


def digest(content: object) -> str:
    """Return a sha256 over nested containers, tensors included, whatever the order of dict keys."""
    hasher = hashlib.sha256()
    _feed(hasher, content)
    return hasher.hexdigest()


def _feed(hasher: Any, value: object) -> None:
    if isinstance(value, Tensor):
        hasher.update(f"tensor {value.dtype} {tuple(value.shape)} ".encode())
        hasher.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        hasher.update(f"dict {len(value)} ".encode())
        for key in sorted(value, key=repr):
            hasher.update(repr(key).encode())
            _feed(hasher, value[key])
    elif isinstance(value, list | tuple):
        hasher.update(f"list {len(value)} ".encode())
        for item in value:
            _feed(hasher, item)
    else:
        hasher.update(repr(value).encode())


def _mismatch(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    for name, tensor in wanted.items():
        if name not in found:
            return f"{name} is missing from it"
        if found[name].shape != tensor.shape or found[name].dtype != tensor.dtype:
            return (
                f"{name} is {tuple(found[name].shape)} {found[name].dtype} in it, "
                f"{tuple(tensor.shape)} {tensor.dtype} here"
            )
    return next((f"{name} has no place here" for name in found if name not in wanted), "")
