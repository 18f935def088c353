"""Settings from a YAML file and the command line: what is read, and how every mistake is told."""

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpc_bnn.config import (
    CONFIGS,
    SEED_LIMIT,
    Settings,
    SettingsError,
    difference,
    dump_settings,
    load_settings,
)
from hpc_bnn.config.load import log_gone

GOOD: dict[str, Any] = {
    "seed": 3,
    "posterior": {"samples": 4},
    "loss": {"name": "gaussian_nll", "variance": "predicted"},
    "model": {"name": "mlp", "hidden": [8, 4]},
    "data": {"name": "synthetic_series", "length": 500},
    "train": {"steps": 10, "batch_size": 16},
}
# The others are scaling studies (hpc_bnn.study.study_file).
SETTINGS_FILES = sorted(set(CONFIGS.glob("*.yaml")) - set(CONFIGS.glob("scaling_*.yaml")))


def write(path: Path, **sections: Any) -> Path:
    path.write_text(yaml.safe_dump({**GOOD, **sections}), encoding="utf-8")
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write(tmp_path / "good.yaml")


def problems(path: Path, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load_settings(path, overrides)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def test_reads_a_file(good: Path) -> None:
    settings = load_settings(good)
    assert (settings.seed, settings.posterior.samples, settings.train.steps) == (3, 4, 10)
    assert settings.model.name == "mlp"
    assert settings.model.options == {"hidden": [8, 4]}
    assert settings.loss.exact
    assert settings.loss.options == {"variance": "predicted"}


def test_a_key_that_is_gone_is_ignored_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In a file, as in the config.yaml of an old run, and on the command line."""
    log_gone.cache_clear()
    now = load_settings(write(tmp_path / "now.yaml"))
    old = write(tmp_path / "old.yaml", data={**GOOD["data"], "share": "window"})
    with caplog.at_level("INFO"):
        for overrides in ([], ["data.share=each"]):
            assert load_settings(old, overrides) == load_settings(tmp_path / "now.yaml") == now
        assert load_settings(tmp_path / "now.yaml", ["data.share=auto"]) == now
    assert [(record.levelname, record.message) for record in caplog.records] == [
        (
            "INFO",
            "data.share is gone and is ignored: every rank reads its own batches; remove the key",
        )
    ]


@pytest.mark.parametrize(
    ("override", "section", "key", "expected"),
    [
        ("train.lr=1e-3", "train", "lr", 1e-3),
        ("train.lr=2", "train", "lr", 2.0),
        ("train.lr=5.0e-2", "train", "lr", 0.05),
        ("train.steps=7", "train", "steps", 7),
        ("posterior.keep_graphs=true", "posterior", "keep_graphs", True),
        ("train.capture=off", "train", "capture", "off"),  # a truth value in YAML
        ("train.capture=on", "train", "capture", "on"),
        ("train.capture=auto", "train", "capture", "auto"),
        ("posterior={name: other, width: 2}", "posterior", "options", {"width": 2}),
        ("grid.sample_ranks=2", "grid", "sample_ranks", 2),
        ("grid.sample_ranks=auto", "grid", "sample_ranks", "auto"),
        ("data.transform.name=jitter", "data", "transform", {"name": "jitter"}),
        ("data.transform={name: jitter, sigma: 0.5}", "data", "transform", None),
    ],
)
def test_override(good: Path, override: str, section: str, key: str, expected: object) -> None:
    value = getattr(getattr(load_settings(good, [override]), section), key)
    if expected is None:
        expected = {"name": "jitter", "sigma": 0.5}
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize("text", ["1e-1", "1E-1", ".1", "0.1", "1.0e-1"])
def test_options_hold_numbers_however_they_are_written(good: Path, text: str) -> None:
    settings = load_settings(good, [f"model.dropout={text}"])
    assert settings.model.options["dropout"] == 0.1
    assert isinstance(settings.model.options["dropout"], float)


def test_numbers_without_a_point_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "plain.yaml"
    text = yaml.safe_dump(GOOD) + "\ngrid: {mode: local}\n"
    path.write_text(text.replace("batch_size: 16", "batch_size: 16\n  lr: 1e-2"), encoding="utf-8")
    assert load_settings(path).train.lr == 0.01


def test_later_override_wins_and_keeps_neighbours(good: Path) -> None:
    settings = load_settings(good, ["train.lr=1", "train.lr=2", "model.hidden=[2]"])
    assert settings.train.lr == 2.0
    assert settings.train.batch_size == 16
    assert settings.model.options == {"hidden": [2]}


def test_value_with_an_equals_sign(good: Path) -> None:
    assert load_settings(good, ["data.path=a=b"]).data.options["path"] == "a=b"


def test_unknown_key_names_file_and_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "typo.yaml", grid={"sampels": 4}, trian={})
    found = problems(path)
    assert f"{path}: grid.sampels: unknown key; did you mean sample_ranks?" in found
    assert f"{path}: trian: unknown key; did you mean train?" in found
    assert len(found) == 2


def test_unknown_key_without_a_near_one_makes_no_guess(good: Path) -> None:
    assert problems(good, "grid.zzz=1") == ("command line: grid.zzz: unknown key",)


def test_every_error_is_told_at_once_with_its_source(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.yaml", seed=-1, posterior={"samples": 0})
    found = problems(path, "train.lr=fast", "nonsense", "=3", "grid.mode=both", "foo.bar=1")
    assert len(found) == 7
    text = "\n".join(found)
    assert f"{path}: seed = -1: input should be greater than or equal to 0" in text
    assert f"{path}: posterior.samples = 0: input should be greater than 0" in text
    assert "command line: train.lr = 'fast': input should be a valid number" in text
    assert "command line: 'nonsense': expected key=value, such as train.lr=0.001" in text
    assert "command line: '=3': expected key=value" in text
    assert "command line: grid.mode = 'both': input should be 'local', 'sample', " in text
    assert "command line: foo: unknown key" in text


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.steps=2.5", "train.steps = 2.5"),
        ("train.steps=-1", "train.steps = -1"),
        ("train.batch_size=0", "train.batch_size = 0"),
        ("train.lr=0", "train.lr = 0"),
        ("train.lr=-1e-3", "train.lr = -0.001"),
        ("train.lr=.inf", "train.lr = inf"),
        ("train.clip_norm=.nan", "train.clip_norm = nan"),
        ("train.lr=[1]", "train.lr = [1]"),
        ("train.precision=fp16", "train.precision = 'fp16'"),
        ("posterior.kl_weight=.inf", "posterior.kl_weight = inf"),
        ("data.augmentation=each", "data.augmentation = 'each'"),
        ("data.transform=shift", "data.transform = 'shift'"),
        (f"seed={SEED_LIMIT}", f"seed = {SEED_LIMIT}"),
        ("posterior=3", "posterior = 3"),
        ("posterior.samples=true", "posterior.samples = True"),
        ("train.steps=yes", "train.steps = True"),
        ("seed=true", "seed = True"),
        ("posterior.samples='4'", "posterior.samples = '4'"),
    ],
)
def test_wrong_type_or_range_is_one_error(good: Path, override: str, told: str) -> None:
    (found,) = problems(good, override)
    assert found.startswith(f"command line: {told}")
    assert "input should be" in found


def test_largest_seed_is_accepted(good: Path) -> None:
    assert load_settings(good, [f"seed={SEED_LIMIT - 1}"]).seed == SEED_LIMIT - 1


@pytest.mark.parametrize(
    ("override", "alternatives"),
    [
        ("grid.sample_ranks=0", ("'auto'", "greater than 0")),
        ("grid.sample_ranks=all", ("'auto'", "valid integer")),
    ],
)
def test_a_union_is_told_once(good: Path, override: str, alternatives: tuple[str, ...]) -> None:
    (found,) = problems(good, override)
    assert " or " in found
    assert found.count(override.partition("=")[0]) == 1
    for alternative in alternatives:
        assert found.count(alternative) == 1


def test_missing_sections_are_all_named(tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    path.write_text("seed: 1\nmodel: {hidden: [3]}\n", encoding="utf-8")
    assert set(problems(path)) == {
        f"{path}: loss: missing",
        f"{path}: model.name: missing",
        f"{path}: data: missing",
        f"{path}: train: missing",
    }


@pytest.mark.parametrize("override", ["train.epochs=2", "train.steps=0"])
def test_one_of_steps_and_epochs(good: Path, override: str) -> None:
    (found,) = problems(good, override)
    assert "set one of steps and epochs to a positive number, the other to 0" in found


def test_override_inside_nothing(good: Path) -> None:
    """A run that was dumped without noise on its inputs has `perturb: null`."""
    good.write_text(good.read_text() + "\nperturb: null\n")
    perturb = load_settings(good, ["perturb.name=gaussian", "perturb.scale.t2m=0.1"]).perturb
    assert perturb is not None
    assert perturb.scale == {"t2m": 0.1}


def test_override_inside_a_value(good: Path) -> None:
    (found,) = problems(good, "train.steps.most=3")
    assert found == "command line: train.steps.most: train.steps holds a value, not a section"
    (found,) = problems(good, "train.lr.min=3")
    assert found.startswith("command line: train.lr = {'min': 3}: input should be a valid number")


def test_a_wrong_section_on_the_command_line_is_not_blamed_on_the_file(good: Path) -> None:
    (found,) = problems(good, "trian.lr=3")
    assert found == "command line: trian: unknown key; did you mean train?"


def test_a_wrong_value_of_the_file_is_not_blamed_on_another_override(tmp_path: Path) -> None:
    path = write(tmp_path / "both.yaml", train={"steps": 1, "epochs": 1})
    (found,) = problems(path, "train.lr=0.1")
    assert found.startswith(f"{path}: train: set one of steps and epochs")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a: [1, 2\n", "not YAML"),
        (b"\ttabs: 1\n", "not YAML"),
        (b"\xff\xfe\x00", "not YAML"),
        (b"", "expected sections (seed, grid, posterior, loss, model, data, optimizer, train, "),
        (b"", "evaluation), got None"),
        (b"# nothing\n", "expected sections"),
        (b"- 1\n- 2\n", "expected sections"),
        (b"just words\n", "expected sections"),
    ],
)
def test_a_file_that_holds_no_settings(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    (found,) = problems(path)
    assert found.startswith(f"{path}: ")
    assert told in found
    assert "\n" not in found


def test_a_missing_file_names_the_bundled_folder(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.yaml"
    with pytest.raises(FileNotFoundError, match="no such settings file") as caught:
        load_settings(path)
    assert str(path) in str(caught.value)
    assert str(CONFIGS) in str(caught.value)


def test_a_folder_is_no_settings_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such settings file"):
        load_settings(tmp_path)


@pytest.mark.parametrize("path", SETTINGS_FILES, ids=lambda path: path.name)
def test_bundled_settings_are_good(path: Path) -> None:
    assert isinstance(load_settings(path), Settings)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["train.lr=1e-7", "posterior.prior_sigma=fan_in", "grid.sample_ranks=3"],
        ["data.transform={name: shift, pixels: 2}", "posterior.random=['*.weight']"],
        ["data.name='1e5'", "data.path='0x10'", "loss.units='2e-3'"],
        ["model.hidden=[]", f"seed={SEED_LIMIT - 1}", "train.lr=0.1234567890123456789"],
        ["train.rollout={0: 1, 3: 2, 12: 4}"],
    ],
)
def test_dump_and_load_round_trip(good: Path, tmp_path: Path, overrides: list[str]) -> None:
    settings = load_settings(good, overrides)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_settings(settings), encoding="utf-8")
    again = load_settings(copy)
    assert again == settings
    assert difference(settings, again) == {}
    assert dump_settings(again) == dump_settings(settings)


def test_dump_holds_every_default(good: Path) -> None:
    dumped = yaml.safe_load(dump_settings(load_settings(good)))
    for section in ("grid", "posterior", "train"):
        assert set(dumped[section]) == set(Settings.model_fields[section].annotation.model_fields)
    assert dumped["model"] == {"name": "mlp", "hidden": [8, 4]}


def test_difference_names_dotted_keys_with_both_values(good: Path) -> None:
    old = load_settings(good)
    new = load_settings(good, ["train.lr=0.5", "model.hidden=[8]", "data.seed=4"])
    assert difference(old, new) == {
        "train.lr": (1e-3, 0.5),
        "model.hidden": ([8, 4], [8]),
        "data.seed": (None, 4),
    }
    assert difference(new, old)["data.seed"] == (4, None)


def test_difference_looks_into_the_transform(good: Path) -> None:
    old = load_settings(good, ["data.transform={name: shift, pixels: 1}"])
    new = load_settings(good, ["data.transform={name: shift, pixels: 2}"])
    assert difference(old, new) == {"data.transform.pixels": (1, 2)}


def test_settings_cannot_be_changed(good: Path) -> None:
    settings = load_settings(good)
    with pytest.raises(ValueError, match="frozen"):
        settings.train.steps = 3


def test_a_default_counts_where_nobody_says_otherwise(tmp_path: Path) -> None:
    """As job scripts give them: neither the file nor the command line may be outdone."""
    path = write(tmp_path / "run.yaml", train={"steps": 3, "checkpoint_every": 0})
    defaults = ["train.checkpoint_every=500", "train.stall_timeout=600", "grid.sample_ranks=2"]
    settings = load_settings(path, ["grid.sample_ranks=1"], defaults=defaults)
    assert (settings.train.checkpoint_every, settings.train.stall_timeout) == (0, 600)
    assert settings.grid.sample_ranks == 1
    with pytest.raises(SettingsError, match=r"command line: train\.stal_timeout: unknown key"):
        load_settings(path, defaults=["train.stal_timeout=600"])


METHOD_FILE = """
posterior: {samples: 4, prior_sigma: fan_in, initial_sigma: 0.01}
loss: {name: categorical_nll}
model: {name: vit, patch: 4}
data: {name: digits}
train: {steps: 5}
"""


def test_options_of_a_file_belong_to_the_choice_that_it_makes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """``posterior.name`` is left out in the file: its options are those of the default."""
    path = tmp_path / "vit.yaml"
    path.write_text(METHOD_FILE)
    caplog.set_level(logging.INFO, logger="hpc_bnn")
    overrides = ["posterior.name=ensemble", "posterior.initial_sigma=0.1", "model.name=mlp"]
    settings = load_settings(path, overrides)
    assert settings.posterior.options == {"initial_sigma": 0.1}  # of the command line: it counts
    assert settings.posterior.samples == 4
    assert settings.model.options == {}
    assert "options of gaussian in the file do not count: prior_sigma" in caplog.text
    assert "model.name = mlp: the options of vit in the file do not count: patch" in caplog.text


def test_the_same_choice_keeps_the_options_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "vit.yaml"
    path.write_text(METHOD_FILE)
    options = {"prior_sigma": "fan_in", "initial_sigma": 0.01}
    whole = ["posterior.name=ensemble", "posterior={name: ensemble}"]
    for overrides in ([], ["posterior.name=gaussian"], whole, whole[1:]):
        settings = load_settings(path, overrides)
        assert settings.posterior.options == ({} if "{" in "".join(overrides) else options)


def test_a_section_that_is_replaced_after_its_name_is_the_last_word(tmp_path: Path) -> None:
    path = tmp_path / "vit.yaml"
    path.write_text(METHOD_FILE)
    settings = load_settings(path, ["posterior.name=ensemble", "posterior={samples: 2}"])
    assert (settings.posterior.name, settings.posterior.options) == ("gaussian", {})
