"""Which settings a run may change when it goes on, and whether a checkpoint is of the same run."""

from pathlib import Path

from hpc_bnn.config import Settings, difference
from hpc_bnn.config.options import path_options
from hpc_bnn.config.yaml_text import parse
from hpc_bnn.data import DATA_SETS, data_set
from hpc_bnn.train.run.build import resolved
from hpc_bnn.train.run.checkpoint import Checkpoint, CheckpointError
from hpc_bnn.train.run.old_options import with_old_options

# May change when a run is resumed: none of them changes the answer.
RESUMABLE = {
    "train.reduction", "train.guard_every", "train.checkpoint_every", "train.keep_checkpoints",
    "train.validate_every", "train.log_every", "train.stall_timeout", "train.device",
    "train.keep_best", "train.patience", "train.judge_by", "train.profile", "train.capture",
    "train.compile", "train.track", "train.mtbf_hours", "train.snapshot_every",
    "train.snapshot_dir",
    "posterior.predict_samples", "posterior.samples_per_pass", "train.max_time", "data.stale",
}  # fmt: skip
RESUMABLE_PREFIXES = ("grid.", "forecast.", "evaluation.", "posterior.keep_")
MAY_GROW = ("train.steps", "train.epochs")

Changes = dict[str, tuple[object, object]]


def changes(old: Settings, new: Settings, *, may_grow: bool) -> Changes:
    """Return the keys that make another run of ``old``, with the old and the new value.

    may_grow: it may go on for longer.
    """
    differences = difference(resolved(old), resolved(new))
    # Where another method was chosen, its options tell nothing more.
    others = {key.removesuffix(".name") for key in differences if key.endswith(".name")}
    return {
        key: values
        for key, values in differences.items()
        if key not in RESUMABLE
        and not key.startswith(RESUMABLE_PREFIXES)
        and not (may_grow and grows(key, *values))
        and (key.endswith(".name") or key.rpartition(".")[0] not in others)
    }


def grows(key: str, old: object, new: object) -> bool:
    """Tell whether a run only goes on for longer, counted as before."""
    lengths = isinstance(old, int) and isinstance(new, int)
    return key in MAY_GROW and lengths and 0 < old < new  # type: ignore[operator]


def require_same_run(path: Path, state: Checkpoint, run: Settings, config: Path) -> Changes:
    """Return which paths of files a run reads are others than when a checkpoint was made: they may
    have been moved.

    run: the settings of the run, those in ``config``.

    Raises
    ------
    CheckpointError
        If the checkpoint is of another run, or of a script.
    """
    advice = "remove it from this folder, or go on with the run that it is of"
    if not state.settings:
        raise CheckpointError(f"{path}: hb.save wrote it, no run of hpc-bnn train; {advice}")
    try:
        saved = Settings.model_validate(parse(state.settings))
    except ValueError as error:
        raise CheckpointError(f"{path}: its settings cannot be read ({error}); {advice}") from error
    # Nothing says whether the version that wrote it knew the options whose default changed.
    versions = (with_old_options(saved, of_old_run=is_old) for is_old in (False, True))
    changed = min((changes(each, run, may_grow=True) for each in versions), key=len)
    paths = _paths(saved) & _paths(run)
    wrong = [
        f"{key} = {old!r} there, {new!r} in {config}"
        for key, (old, new) in changed.items()
        if key not in paths
    ]
    if wrong:
        raise CheckpointError(f"{path}: checkpoint of another run: {', '.join(wrong)}; {advice}")
    return changed


def _paths(settings: Settings) -> set[str]:
    """Return the keys of what a run reads from files."""
    data = settings.data
    paths = path_options(data_set(data.name), data.options) if data.name in DATA_SETS else []
    return {
        *(f"data.{key}" for key in paths),
        *["train.start_from"] * bool(settings.train.start_from),
    }
