"""The run folder: who may write into it, what it holds, and whether a run may go on in it."""

import json
import secrets
from pathlib import Path
from typing import Any

from hpc_bnn.config import Settings, SettingsError, dump_settings, load_settings
from hpc_bnn.data.facts import facts_of, source_of
from hpc_bnn.data.source import Source
from hpc_bnn.files import whole_file, write_json
from hpc_bnn.lock import Lock, LockError, hold, require_lock_file
from hpc_bnn.train.run.old_options import with_old_options
from hpc_bnn.train.run.resumable import MAY_GROW, changes, grows
from hpc_bnn.train.run.track import require_trackers

# What ``evaluate`` draws, beside the course of the training.
PICTURES = (
    *("map_*", "events", "ranks", "scores", "spectra", "spread_skill"),
    *("forecast", "pit", "reliability"),
)


class RunFolder:
    """Paths of a run and the rules of its folder. Only world rank 0 checks it and writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.data = path / "data.json"
        self.metrics = path / "metrics.jsonl"
        self.restarts = path / "restarts.jsonl"
        self.trace = path / "trace.json"
        self.lock = path / "lock"
        self.summary = path / "summary.json"
        self.checkpoints = path / "checkpoints"
        self.facts_of_run = path / ".run"
        self.evaluation = path / "evaluation.json"
        self.evaluation_starts = path / "evaluation_starts.nc"
        self.evaluation_spectra = path / "evaluation_spectra.nc"
        self.memory = path / "memory.json"
        self.plots = path / "plots"
        self._held: Lock | None = None

    def settings(self) -> Settings:
        """Return the settings of the run in this folder.

        Raises
        ------
        FileNotFoundError
            If no run was started here.
        """
        self.require_run()
        return with_old_options(load_settings(self.config), of_old_run=True)

    def require_run(self) -> None:
        """Raise FileNotFoundError if no run was started here."""
        if not self.config.is_file():
            raise FileNotFoundError(
                f"{self.config}: no run in this folder; start one with hpc-bnn train CONFIG --run "
                f"{self.path}"
            )

    def check(self, settings: Settings, *, resume: bool) -> None:
        """Check that a run with these settings may start, or go on, in this folder.

        Raises
        ------
        SettingsError
            If the folder holds another run, a run that was not asked to go on, or a config.yaml or
            lock that no run wrote; or if the package of a tracker is not installed.
        """
        require_trackers(settings.train.track)
        if self.config.is_file() and not self.checkpoints.is_dir():  # a run makes it first
            what = "no run wrote it: expected the folder checkpoints beside it"
            advice = "use another --run folder; if a run did, make an empty folder checkpoints"
            raise SettingsError([f"{self.config}: {what}: it is not overwritten; {advice}"])
        require_lock_file(self.lock)
        if self.config.is_file():
            changed = changes(self.settings(), settings, may_grow=resume)
            if changed:
                raise SettingsError(
                    [
                        f"{self.config}: {key} = {old!r} in the run of this folder, now {new!r}; "
                        f"{_advice(key, old, new)}"
                        for key, (old, new) in changed.items()
                    ]
                )
            if not resume:
                advice = "continue it with --resume or use another --run folder"
                raise SettingsError([f"{self.path}: holds a run already; {advice}"])
            return
        written = [
            self.metrics,
            self.restarts,
            self.summary,
            self.evaluation,
            self.evaluation_starts,
            self.evaluation_spectra,
            self.plots,
            self.data,
        ]
        written.append(self.trace)
        foreign = [path.name for path in written if path.exists()]
        # An empty folder is what a job leaves that was killed in ``claim``.
        if any(self.checkpoints.glob("step-*.pt")):
            foreign.append(self.checkpoints.name)
        if foreign:
            what = f"holds {', '.join(foreign)} but no config.yaml, so no run"
            advice = "they are not overwritten; use another --run folder, or remove them"
            raise SettingsError([f"{self.path}: {what}: {advice}"])

    def remove_pictures(self) -> None:
        """Remove the pictures of an earlier evaluation: of other lead times, or of scores that
        there are no more.
        """
        for name in PICTURES:
            for path in self.plots.glob(f"{name}.png"):
                path.unlink(missing_ok=True)

    def facts(self) -> dict[str, Any] | None:
        """Return what the run keeps of its data set, None where it keeps nothing: a run of an
        earlier version.
        """
        if not self.data.is_file():
            return None
        try:
            facts: dict[str, Any] = json.loads(self.data.read_text(encoding="utf-8"))
            source_of(facts)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{self.data}: damaged ({type(error).__name__}: {error}): expected what hpc-bnn "
                "train wrote; remove it, and the data set is read instead"
            ) from error
        return facts

    def source(self) -> Source | None:
        """Return the data set without its examples, None where that cannot be: of fields, or where
        the run keeps nothing.
        """
        facts = self.facts()
        return None if facts is None else source_of(facts)

    def claim(self, settings: Settings, *, resume: bool, source: Source | None = None) -> Lock:
        """Make the folder this job's own: lock it, check again, write the resolved settings and
        what the run is to keep of its data set.

        What a killed run left half written is cleared. Returns the lock, held while it is open.

        Raises
        ------
        OSError
            If the folder cannot be written, or another job works in it.
        SettingsError
            As from ``check``: another job may have begun since.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            require_lock_file(self.lock)
            lock = self._held = hold(self.lock)
            self.check(settings, resume=resume)
            self.checkpoints.mkdir(exist_ok=True)
            for leftover in self.checkpoints.glob("*.partial"):
                leftover.unlink(missing_ok=True)
            if not self._own_facts():
                write_json(self.facts_of_run, {"id": secrets.token_hex(8)})
            with whole_file(self.config) as file:
                file.write(dump_settings(with_old_options(settings)).encode())
            if source is not None:
                write_json(self.data, facts_of(source))
        except LockError:
            raise
        except OSError as error:
            raise OSError(
                f"{self.path}: the run folder cannot be written ({error.strerror}); choose "
                "another with --run"
            ) from error
        return lock

    def identity(self) -> str:
        """Return what tells the run of this folder, once claimed, from any other."""
        return str(self._own_facts().get("id", ""))

    def last_grid(self) -> dict[str, int] | None:
        """Return the grid that the run was last on, None where it made no step yet."""
        return self._own_facts().get("grid")

    def note_grid(self, grid: dict[str, int]) -> None:
        """Note the grid of the steps from here on."""
        self.require_own()
        write_json(self.facts_of_run, {**self._own_facts(), "grid": grid})

    def _own_facts(self) -> dict[str, Any]:
        try:
            facts = json.loads(self.facts_of_run.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # of a run of an earlier version, or cut short
            return {}
        return facts if isinstance(facts, dict) else {}

    def require_own(self) -> None:
        """Check that a folder that was claimed is still this job's; call it before each write.

        Raises
        ------
        LockError
            If its lock was deleted, or another job has taken the folder over.
        """
        if self._held is not None:
            self._held.require_own()


def _advice(key: str, old: object, new: object) -> str:
    if grows(key, old, new):
        return "a run goes on for longer with --resume"
    if key in MAY_GROW:
        return f"it may only grow, with --resume; use another --run folder, or {key}={old}"
    return "use another --run folder, or the settings of this one"
