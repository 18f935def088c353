"""The run folder: a run may go on in it, another run may not."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpc_bnn.config import Settings, SettingsError, dump_settings
from hpc_bnn.lock import LockError, hold, release
from hpc_bnn.train.run.build import resolved
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.resumable import RESUMABLE
from hpc_bnn.train.score.away import settings_with

BASE = {
    "seed": 1,
    "loss": {"name": "gaussian_nll", "variance": "predicted"},
    "model": {"name": "mlp", "hidden": [128]},
    "data": {"name": "synthetic_series", "length": 8766, "normalize": "window"},
    "train": {"steps": 600, "lr": 0.002, "validate_every": 50},
}


def prepare(folder: RunFolder, chosen: Settings, *, resume: bool) -> None:
    folder.check(chosen, resume=resume)
    release(folder.claim(chosen, resume=resume))


def settings(*overrides: str) -> Settings:
    content: dict[str, Any] = copy.deepcopy(BASE)
    for override in overrides:
        key, _, text = override.partition("=")
        section, _, name = key.rpartition(".")
        (content.setdefault(section, {}) if section else content)[name] = yaml.safe_load(text)
    return Settings.model_validate(content)


def test_a_new_folder_gets_the_resolved_settings(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "deep" / "run")
    prepare(folder, settings("train.lr=0.5"), resume=False)
    assert folder.settings() == settings("train.lr=0.5")
    assert folder.checkpoints.is_dir()
    assert sorted(path.name for path in folder.path.iterdir()) == [
        ".run",
        "checkpoints",
        "config.yaml",
        "lock",
    ]


def test_how_windows_are_normalised_is_written_and_old_runs_keep_theirs(tmp_path: Path) -> None:
    content: dict[str, Any] = copy.deepcopy(BASE)
    del content["data"]["normalize"]
    unsaid, folder = Settings.model_validate(content), RunFolder(tmp_path / "run")
    prepare(folder, unsaid, resume=False)
    assert folder.settings().data.options["normalize"] == "window"
    prepare(folder, unsaid, resume=True)
    # What an earlier version wrote does not say it: such a run goes on as it was.
    folder.config.write_text(dump_settings(unsaid), encoding="utf-8")
    assert folder.settings().data.options["normalize"] == "training"
    with pytest.raises(SettingsError, match=r"data\.normalize = 'training' in the run"):
        folder.check(unsaid, resume=True)
    folder.check(settings("data.normalize=training"), resume=True)


def test_how_a_swin_recovers_points_is_written_and_old_runs_keep_theirs(tmp_path: Path) -> None:
    content = {**copy.deepcopy(BASE), "model": {"name": "swin"}}
    unsaid, folder = Settings.model_validate(content), RunFolder(tmp_path / "run")
    prepare(folder, unsaid, resume=False)
    assert folder.settings().model.options["recovery"] == "overlap"
    folder.config.write_text(dump_settings(unsaid), encoding="utf-8")
    assert folder.settings().model.options["recovery"] == "patch"
    assert settings_with(folder, ["evaluation.starts=3"]).model.options["recovery"] == "patch"
    with pytest.raises(SettingsError, match=r"model\.recovery = 'patch' in the run"):
        folder.check(unsaid, resume=True)
    content["model"]["recovery"] = "patch"
    folder.check(Settings.model_validate(content), resume=True)


def test_resume_in_a_new_folder_starts_a_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    prepare(folder, settings(), resume=True)
    assert folder.settings() == settings()


def test_a_used_folder_needs_resume(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    prepare(folder, settings(), resume=False)
    with pytest.raises(SettingsError, match="holds a run already; continue it with --resume"):
        prepare(folder, settings(), resume=False)
    prepare(folder, settings(), resume=True)


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("check", [True, False])
def test_settings_that_no_run_wrote_are_not_overwritten(
    tmp_path: Path, resume: bool, check: bool
) -> None:
    folder = RunFolder(tmp_path)
    folder.config.write_text("# mine\n" + dump_settings(settings()), encoding="utf-8")
    before = folder.config.read_bytes()
    with pytest.raises(SettingsError, match=r"config\.yaml: no run wrote it") as caught:
        (folder.check if check else folder.claim)(settings(), resume=resume)
    assert "--resume" not in str(caught.value)
    assert folder.config.read_bytes() == before
    assert not folder.checkpoints.exists()


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_a_lock_that_no_run_wrote_is_not_overwritten(tmp_path: Path, kind: str) -> None:
    folder, other = RunFolder(tmp_path / "run"), tmp_path / "other"
    folder.path.mkdir()
    if kind == "folder":
        folder.lock.mkdir()
    else:
        (folder.lock if kind == "file" else other).write_text("mine", encoding="utf-8")
    if kind == "link":
        folder.lock.symlink_to(other)
    for begin in (folder.check, folder.claim):
        with pytest.raises(LockError, match=r"lock: no run wrote it: .* use another --run folder"):
            begin(settings(), resume=False)
    if kind != "folder":
        assert folder.lock.read_text(encoding="utf-8") == "mine"
    assert not folder.config.exists()


@pytest.mark.parametrize("environment", [{}, {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"}])
def test_the_lock_of_a_killed_run_is_a_lock(tmp_path: Path, environment: dict[str, str]) -> None:
    folder = RunFolder(tmp_path)
    with hold(folder.lock, environment):
        text = folder.lock.read_text(encoding="utf-8")
    folder.lock.write_text(text, encoding="utf-8")  # as nobody gave it free
    prepare(folder, settings(), resume=False)
    assert folder.lock.read_text(encoding="utf-8") == ""


@pytest.mark.parametrize("resume", [True, False])
def test_another_run_is_refused_with_every_difference(tmp_path: Path, resume: bool) -> None:
    folder = RunFolder(tmp_path)
    prepare(folder, settings(), resume=False)
    before = folder.config.read_bytes()
    with pytest.raises(SettingsError) as caught:
        prepare(folder, settings("train.lr=0.5", "seed=9", "model.dropout=0.5"), resume=resume)
    text = str(caught.value)
    assert len(caught.value.problems) == 3
    assert f"{folder.config}: train.lr = 0.002 in the run of this folder, now 0.5" in text
    assert "seed = 1 in the run of this folder, now 9" in text
    assert "model.dropout = None in the run of this folder, now 0.5" in text
    assert "use another --run folder" in text
    assert folder.config.read_bytes() == before


ALLOWED = {
    "train.reduction": "two_stage",
    "train.guard_every": 7,
    "train.checkpoint_every": 7,
    "train.keep_checkpoints": 7,
    "train.validate_every": 7,
    "train.log_every": 7,
    "train.profile": 3,
    "train.keep_best": True,
    "train.patience": 7,
    "train.judge_by": "rmse",
    "train.capture": "off",
    "train.compile": True,
    "train.track": ["tensorboard"],
    "train.mtbf_hours": 100.0,
    "train.snapshot_every": 1,
    "train.snapshot_dir": "/scratch/x",
    "train.stall_timeout": 7.0,
    "train.device": "cpu",
    "train.max_time": 7.0,
    "posterior.keep_graphs": True,
    "posterior.keep_noise": True,
    "posterior.predict_samples": 7,
    "posterior.samples_per_pass": 7,
    "grid.mode": "data",
    "grid.sample_ranks": 1,
}


def test_a_run_of_another_method_is_refused_in_one_line(tmp_path: Path) -> None:
    """Its options are those of another thing, so they are not compared."""
    folder = RunFolder(tmp_path)
    prepare(folder, settings("train.steps=40"), resume=False)
    other = settings("train.steps=40", "posterior.name=swag", "posterior.rank=2", "seed=2")
    with pytest.raises(SettingsError) as refused:
        folder.check(other, resume=True)
    text = [str(problem) for problem in refused.value.problems]
    assert len(text) == 2, text
    assert "seed = 1 in the run of this folder, now 2" in text[0]
    assert "posterior.name = 'gaussian' in the run of this folder, now 'swag'" in text[1]


def test_every_resumable_key_is_tested() -> None:
    tested = {key for key in ALLOWED if not key.startswith("grid.")}
    assert tested | {"data.stale"} >= RESUMABLE


@pytest.mark.parametrize("key", sorted(ALLOWED))
def test_what_does_not_change_the_answer_may_change_on_resume(tmp_path: Path, key: str) -> None:
    if key == "train.track":
        pytest.importorskip("tensorboard")
    folder = RunFolder(tmp_path)
    prepare(folder, settings(), resume=False)
    section, _, name = key.partition(".")
    value = ALLOWED[key]
    changed = settings(f"{key}={str(value).lower() if isinstance(value, bool) else value}")
    before, after = (resolved(each).model_dump()[section] for each in (settings(), changed))
    assert after[name] != before[name]
    prepare(folder, changed, resume=True)
    assert folder.settings() == changed


def test_a_stale_cache_may_be_allowed_on_resume(tmp_path: Path) -> None:
    """An option of the data set: absent, then given."""
    folder = RunFolder(tmp_path)
    prepare(folder, settings(), resume=False)
    changed = settings("data.stale=allow")
    assert changed.data.options["stale"] == "allow"
    prepare(folder, changed, resume=True)
    assert folder.settings() == changed


@pytest.mark.parametrize(
    "override",
    [
        "seed=2",
        "posterior.samples=16",
        "posterior.initial_sigma=0.5",
        "posterior.antithetic=true",
        "loss.exact=false",
        "loss.variance=fixed",
        "model.hidden=[8]",
        "data.length=9000",
        "data.augmentation=shared",
        "data.transform={name: jitter, sigma: 0.1}",
        "train.steps=500",
        "train.batch_size=32",
        "train.clip_norm=1.0",
        "train.precision=float64",
        "train.compression=fp16",
        "train.schedule=constant",
    ],
)
def test_what_changes_the_answer_may_not(tmp_path: Path, override: str) -> None:
    folder = RunFolder(tmp_path)
    prepare(folder, settings(), resume=False)
    with pytest.raises(SettingsError, match="in the run of this folder, now"):
        prepare(folder, settings(override), resume=True)


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no run in this folder; start one with hpc-bnn"):
        RunFolder(tmp_path).settings()


def test_checkpoints_of_no_known_run_are_refused(tmp_path: Path) -> None:
    """Weights of who knows what; an empty folder is what a job leaves that was killed early."""
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    (folder.checkpoints / "step-00000002.pt").write_bytes(b"foreign")
    for resume in (False, True):
        with pytest.raises(SettingsError, match=r"holds checkpoints but no config\.yaml"):
            prepare(folder, settings(), resume=resume)
    assert not folder.config.exists()
    (folder.checkpoints / "step-00000002.pt").unlink()
    prepare(folder, settings(), resume=True)


# Not by file modes: root ignores them.
def test_a_folder_under_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    folder = RunFolder(tmp_path / "file" / "run")
    with pytest.raises(OSError, match="the run folder cannot be written") as caught:
        prepare(folder, settings(), resume=False)
    assert str(caught.value).startswith(f"{folder.path}: ")
    assert "choose another with --run" in str(caught.value)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_a_folder_in_a_read_only_file_system() -> None:
    with pytest.raises(OSError, match="/proc/run: the run folder cannot be written"):
        prepare(RunFolder(Path("/proc/run")), settings(), resume=False)
