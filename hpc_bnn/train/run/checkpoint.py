"""Checkpoints: one file for the whole world, atomic, checksummed, readable on any grid.

``step-XXXXXXXX.pt`` is a ``torch.save`` file of plain containers and tensors (``weights_only=True``
reads it). It holds everything a run is: parameters, optimizer, the number of finished steps, from
which the position in the data follows, the settings, and a sha256 over each part of it. There is
no random state to save: noise is keyed.

A file appears by rename after fsync, so it is whole or absent. Resume takes the newest good one.
One rank reads it, the others get it from there part by part (``transfer``): nobody holds a second
copy. What only trains on, the optimizer's moments, is not read to predict.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from hpc_bnn.files import free_space, whole_file
from hpc_bnn.lock import LockError

log = logging.getLogger(__name__)

# 5 has a sha256 for each part; 4 held a scheduler, 3 moving averages, 2 named what is per-sample.
FORMAT = 5
READS = (1, 2, 3, 4, 5)
BEST = "best.pt"
PATTERN = re.compile(r"step-(\d{8})\.pt")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read or used; the message says what to do."""


class OtherModelError(CheckpointError):
    """A checkpoint of tensors that the model has not, or has in other shapes."""


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
    per_sample
        Tensors of ``posterior`` with a row for each weight sample, by its global index. The moments
        of such parameters have the same rows, and so have their averages.
    ema
        The moving average of what is trained: its ``decay``, its ``steps`` and its ``weights`` by
        name; empty where the run has none.
    scheduler
        State dict of what sets the rate in a script of a user's own; empty where nothing does.
    """

    step: int
    position: Mapping[str, int]
    posterior: Mapping[str, Tensor]
    loss: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    settings: str
    versions: Mapping[str, str]
    per_sample: Sequence[str] = ()
    ema: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)


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
    write(path, checkpoint, require_own=require_own)
    # A later file than the one just written is damaged, or the run would have resumed from it.
    for old in [other for other in available(folder) if other.name <= path.name][:-keep]:
        old.unlink(missing_ok=True)
    return path


def write(
    path: Path, checkpoint: Checkpoint, *, require_own: Callable[[], None] | None = None
) -> Path:
    """Write ``checkpoint`` into one file, whole or not at all; errors are those of ``save``."""
    if require_own is not None:
        require_own()
    content = {"format": FORMAT, **vars(checkpoint)}
    content["sha256"] = {name: digest(value) for name, value in content.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, rivals=True, check=require_own) as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        if isinstance(error, LockError):
            raise
        raise CheckpointError(
            f"{path}: cannot write the checkpoint ({error}); {free_space(path.parent)}. Earlier "
            "checkpoints are unharmed: free space or fix permissions, then resume"
        ) from error
    return path


def available(folder: Path) -> list[Path]:
    """Return the checkpoint files of a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if PATTERN.fullmatch(p.name) and p.is_file())


def newest_good(folder: Path, *, moments: bool = True) -> tuple[Path, Checkpoint] | None:
    """Return the newest checkpoint that is whole, warning about each newer one that is not; None if
    there are none. ``moments``: as of ``load``.

    Raises
    ------
    CheckpointError
        If there are checkpoints and all are damaged.
    """
    paths = available(folder)
    for path in reversed(paths):
        try:
            return path, load(path, moments=moments)
        except CheckpointError as error:
            log.warning("%s; falling back to the one before", error)
    if paths:
        raise CheckpointError(
            f"{folder}: all {len(paths)} checkpoints are damaged; restore one or start in "
            "another run folder"
        )
    return None


def chosen(folder: Path, which: str, *, moments: bool = True) -> tuple[Path, Checkpoint] | None:
    """Return the checkpoint ``last``, ``best`` or of a number of steps; None where a run has no
    last one. ``moments``: as of ``load``.

    Raises
    ------
    CheckpointError
        If there is no such checkpoint, or it is damaged.
    """
    if which == "last":
        return newest_good(folder, moments=moments)
    path = folder / (BEST if which == "best" else f"step-{int(which):08d}.pt")
    if not path.is_file():
        steps = ", ".join(str(int(PATTERN.sub(r"\1", p.name))) for p in available(folder))
        kept = "best, " if (folder / BEST).is_file() else ""
        raise CheckpointError(
            f"--checkpoint {which}: {path} is not there; the run has {kept}last, {steps or 'none'} "
            "(train.keep_best keeps the best, train.checkpoint_every and keep_checkpoints others)"
        )
    return path, load(path, moments=moments)


def load(path: Path, *, moments: bool = True) -> Checkpoint:
    """Read and verify a checkpoint; tensors are on the CPU, in pages of the file that come with
    their first use.

    moments: False: without the state of the optimizer, of which nothing is read (two thirds of a
    file of Adam's).

    Raises
    ------
    CheckpointError
        If the file is truncated, changed or of another format.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint") from error
    except UnpicklingError as error:  # torch would advise to read it with all that it may run
        raise CheckpointError(
            f"{path}: damaged or truncated checkpoint, or none (it holds other things than "
            "numbers, texts and tensors, which are not read)"
        ) from error
    except Exception as error:  # a damaged archive fails in many ways
        text = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: damaged or truncated checkpoint ({text})") from error
    if not isinstance(content, dict) or "sha256" not in content:
        raise CheckpointError(f"{path}: not a checkpoint of hpc_bnn")
    expected = content.pop("sha256")
    if content.get("format") not in READS:
        raise CheckpointError(
            f"{path}: format {content.get('format')!r}, this version reads "
            f"{', '.join(map(str, READS))}; use the version that wrote it"
        )
    skipped = () if moments else ("optimizer",)
    problem = _changed(content, expected, skipped)
    if problem:
        raise CheckpointError(
            f"{path}: damaged checkpoint (its sha256 does not match its content: {problem})"
        )
    content.update({name: {} for name in skipped})
    written = content.pop("format")
    if written == 1:  # which knew no per-sample parameters
        content["per_sample"] = []
    if written < 3:
        content["ema"] = {}
    if written < 4:
        content["scheduler"] = {}
    names = {each.name for each in fields(Checkpoint)}
    for what, keys in (("lacks", names - set(content)), ("has unknown", set(content) - names)):
        if keys:
            listed = ", ".join(sorted(map(repr, keys)))
            raise CheckpointError(
                f"{path}: {what} {listed}: expected {', '.join(sorted(names))}; use the version "
                "that wrote it"
            )
    return Checkpoint(**content)


def _changed(content: Mapping[str, Any], expected: object, skipped: Sequence[str]) -> str:
    """Return the first part of a file's content that is other than when it was written; "": none.

    expected: digests by part; of formats before 5 one of all of it, for which all must be read.
    """
    if not isinstance(expected, Mapping):
        return "" if digest(content) == expected else "some part"
    for name in sorted({*content, *expected} - {*skipped}, key=repr):
        if name not in content or digest(content[name]) != expected.get(name):
            return str(name)
    return ""


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
