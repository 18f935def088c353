"""A trained run on other data than those of its training: what may change, and where results go."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpc_bnn.config import Settings, SettingsError, difference, load_settings
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.build import check_choices, resolved
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.old_options import with_old_options

MAY_CHANGE = (
    *("data.", "evaluation.", "forecast.", "perturb"),
    *("model.name", "posterior.predict_samples", "train.batch_size", "train.device"),
)


def settings_with(folder: RunFolder, overrides: Sequence[str]) -> Settings:
    """Return the settings of a run with ``key=value`` of the command line.

    Raises
    ------
    FileNotFoundError
        If the folder holds no run.
    SettingsError
        If a key would change what was trained, or a value cannot be used.
    """
    before = folder.settings()
    if not overrides:
        return before
    after = with_old_options(load_settings(folder.config, overrides), of_old_run=True)
    if after.model.name != before.model.name:  # the options are those of the same network
        content = {**before.model.options, **after.model.model_dump()}
        after = after.model_copy(update={"model": type(after.model).model_validate(content)})
    trained = [
        key
        for key in difference(before, after)
        if key == "data.name" or not key.startswith(MAY_CHANGE)
    ]
    may = f"what may change: {', '.join(MAY_CHANGE)} (model.name=package.module:Class)"
    if trained:
        raise SettingsError(
            [f"command line: {key}: the run was trained with another; {may}" for key in trained]
        )
    check_choices(after, "command line")
    return resolved(after)


def changed_by(folder: RunFolder, settings: Settings) -> str:
    """Say which keys of a run's settings are others here."""
    differences = difference(resolved(folder.settings()), resolved(settings))
    return ", ".join(
        f"{key} = {new!r}, where the run has {old!r}" for key, (old, new) in differences.items()
    )


def is_away(folder: RunFolder, settings: Settings) -> bool:
    """Tell whether settings name other data than those of the run."""
    before, now = resolved(folder.settings()), resolved(settings)
    return any(key.startswith("data.") for key in difference(before, now))


def kept_facts(world: World, folder: RunFolder) -> Mapping[str, Any]:
    """Collective: return what the run keeps of its data, which other data are normalised by.

    Raises
    ------
    SettingsError
        If it keeps nothing: it was trained by an earlier version.
    """
    facts = world.all_ranks.on_first(folder.facts, name="data.json")
    if facts is None:
        problem = f"{folder.data}: is not there, so nothing says how other data are normalised"
        advice = f"train --resume --run {folder.path} writes it"
        raise SettingsError([f"{problem}: this run is of an earlier version; {advice}"])
    return facts


def results_folder(folder: RunFolder, settings: Settings) -> RunFolder:
    """Return the run's folder with other places for the results of other data:
    ``evaluation-NAME/``, by the name of their file or folder.
    """
    path = settings.data.options.get("path")
    name = Path(str(path)).stem if path else "other"
    other = copy.copy(folder)
    place = folder.path / f"evaluation-{''.join(c if c.isalnum() else '_' for c in name)}"
    other.evaluation, other.plots = place / "evaluation.json", place / "plots"
    for name in ("evaluation_starts", "evaluation_spectra"):
        setattr(other, name, place / f"{name}.nc")
    return other
