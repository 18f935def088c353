"""Values mean what they say; a text that would take memory or time for ever is refused at once."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from hpc_bnn.config import SettingsError, check_options, dump_settings, load_settings
from hpc_bnn.config.yaml_text import Dumper, TrapError, parse, read_yaml
from hpc_bnn.study.study_file import load_study

BASE = (
    "loss: {name: crps}\ndata: {name: synthetic_series}\ntrain: {steps: 3}\n"
    "model: {name: mlp, hidden: [8]}\n"
)
AT_ONCE_S = 5.0  # on a loaded machine; a bomb takes minutes


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # YAML 1.1 says 8, 90, 85800, a text, a date, an error, a text.
        ("010", 10),
        ("1:30", "1:30"),
        ("23:50:00", "23:50:00"),
        ("1.5e3", 1500.0),
        ("2001-01-01", "2001-01-01"),
        ("2001-02-30", "2001-02-30"),
        ("089", 89),
        ("=", "="),
        ("0x10", 16),
        ("0b11", 3),
        ("1_000", 1000),
        ("-7", -7),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", float("-inf")),
        ("yes", True),
        ("NO", False),
        ("off", False),
        ("null", None),
        ("'NO'", "NO"),
        ("!!str 010", "010"),
        ("1__0", "1__0"),
        ("1.2.3", "1.2.3"),
        ("9223372036854775807", 2**63 - 1),
        ("{a: &x {b: 1}, c: {<<: *x, b: 2}}", {"a": {"b": 1}, "c": {"b": 2}}),
    ],
)
def test_values(text: str, value: object) -> None:
    found = parse(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    ["010", "089", "1:30", "1.5e3", "2001-01-01", "NO", "=", "1_0", "0x1", ".5", "null", "1."],
)
def test_texts_that_look_like_values_come_back_as_texts(text: str) -> None:
    assert parse(yaml.dump([text], Dumper=Dumper)) == [text]


def nested_aliases(most: int) -> str:
    """Nine to the power of ``most`` values in as many lines."""
    lines = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, most)]
    return "\n  ".join(["bomb:", f"a0: &a0 [{', '.join('x' * 9)}]", *lines])


def nested_merges(most: int) -> str:
    lines = [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}], k{i}: 1}}" for i in range(1, most)]
    return "\n  ".join(["bomb:", "a0: &a0 {k: 1}", *lines])


TRAPS: dict[str, tuple[Callable[[], str], str]] = {
    "aliases": (lambda: nested_aliases(12), "more than 10000 values"),
    "merges": (lambda: nested_merges(40), "more than 10000 values"),
    "itself": (lambda: "bomb: &a [*a]", "*a stands inside of what it names"),
    "chain": (
        lambda: "\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 999))]),
        "more than 30 levels",
    ),
    "flow": (lambda: "bomb: " + "[" * 20_000, "more than 30 levels"),
    "block": (lambda: "- " * 3_000 + "x", "more than 30 levels"),
    "long": (lambda: "bomb:\n" + "- a\n" * 20_000, "more than 10000 values"),
    "large": (lambda: "bomb: " + "x" * 2_000_000, "expected at most 1048576"),
    "digits": (lambda: "bomb: " + "9" * 5_000, "an integer of more than 64 bits at line 1"),
    "hexadecimal": (lambda: "bomb: 0x" + "f" * 5_000, "an integer of more than 64 bits"),
    "just too large": (lambda: "bomb: 9223372036854775808", "an integer of more than 64 bits"),
    "key": (
        lambda: "bomb: &a lr\n*a : 1",
        "the alias *a is a key at line 2, column 1; write it out",
    ),
    "twice": (lambda: "bomb: 1\nbomb: 2", "the key bomb is there twice at line 2, column 1"),
}


@pytest.mark.parametrize("name", TRAPS)
def test_traps_in_any_file_are_refused_at_once(tmp_path: Path, name: str) -> None:
    text, words = TRAPS[name][0](), TRAPS[name][1]
    path = tmp_path / "trap.yaml"
    path.write_text(text, encoding="utf-8")
    start = time.monotonic()
    for read in (read_yaml, load_settings, load_study):
        with pytest.raises(SettingsError) as caught:
            read(path)
        assert words in str(caught.value)
        assert str(path) in str(caught.value)
        assert len(str(caught.value)) < 500
    assert time.monotonic() - start < AT_ONCE_S


@pytest.mark.parametrize("name", TRAPS)
def test_traps_in_options_of_a_model_and_on_the_command_line(tmp_path: Path, name: str) -> None:
    path, text = tmp_path / "settings.yaml", TRAPS[name][0]()
    path.write_text(BASE, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"command line: model\.more: ") as caught:
        load_settings(path, [f"model.more={text}"])
    assert TRAPS[name][1] in str(caught.value)
    with pytest.raises(TrapError):
        parse(text)


def test_a_key_of_many_levels(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(BASE, encoding="utf-8")
    with pytest.raises(SettingsError, match="expected a key of fewer levels"):
        load_settings(path, ["model." + ".".join("a" * 5_000) + "=1"])


@pytest.mark.parametrize(
    "text",
    ["!!int word", "!!float x", "!!timestamp 2001-02-30", "!!set {a}", "!!binary aGk=", "*a"],
)
def test_what_no_settings_hold(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        parse(text)


def names(columns: list[str], zone: str = "UTC", units: dict[str, str] | None = None) -> None:
    """Stand for a data set."""


@pytest.mark.parametrize(
    "text", ["{columns: [NO]}", "{columns: [on, a]}", "{columns: [010]}", "{columns: [], zone: ~}",
             "{columns: [], units: {NO: ppm}}"]
)  # fmt: skip
def test_names_that_yaml_takes_for_something_else_need_quotes(text: str) -> None:
    (problem,) = check_options("data", names, parse(text))
    assert 'write a text in quotes, such as "NO"' in problem
    assert problem.startswith("data.")


def test_the_hint_is_for_settings_and_studies_too(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(BASE, encoding="utf-8")
    for override in ("train.start_from=010", "loss.channel_weights={NO: 1}", "grid.mode=off"):
        with pytest.raises(SettingsError, match='write a text in quotes, such as "NO"'):
            load_settings(path, [override])
    path.write_text(
        "config: a\nkinds: [fixed_samples]\nmodes: [no]\nranks: [1]\n", encoding="utf-8"
    )
    with pytest.raises(SettingsError, match='write a text in quotes, such as "NO"'):
        load_study(path)


def test_times_and_octal_looking_numbers_of_settings(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(BASE + "posterior: {samples: 010}\n", encoding="utf-8")
    settings = load_settings(
        path, ["data.history=010", "train.max_time=1:30", "data.at=2001-02-30"]
    )
    assert settings.posterior.samples == 10
    assert settings.data.options == {"history": 10, "at": "2001-02-30"}
    assert settings.train.max_time == 90
    (tmp_path / "copy.yaml").write_text(dump_settings(settings), encoding="utf-8")
    assert load_settings(tmp_path / "copy.yaml") == settings
