"""What ``hpc-bnn settings`` and ``hpc-bnn help`` say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hpc_bnn.cli.program import main
from hpc_bnn.cli.settings_command import choices, schema
from hpc_bnn.config import CONFIGS, Settings
from hpc_bnn.config.describe import in_yaml, kind, option_keys, own_keys, parameter_texts
from hpc_bnn.models import MODELS


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_every_key_has_a_type_and_a_meaning() -> None:
    silent = [
        f"{section}.{name}.{key.name}"
        for section, (table, given) in choices().items()
        for name, function in table.items()
        for key in option_keys(function, given=given)
        if not (key.meaning and key.kind and key.default) or key.meaning.startswith("As ")
    ]
    sections = [each for each in schema()["$defs"].values() if "properties" in each]
    assert len(sections) == len(Settings.model_fields) - 1
    silent += [
        f"{section['title']}.{key}"
        for section in sections
        for key, content in section["properties"].items()
        if not content.get("description") and key != "name"
    ]
    assert silent == []


def test_one_key_one_choice_one_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "settings", "train.lr") == (
        "  train.lr: 0.001    (number above 0)\n      peak learning rate\n"
    )
    assert said(capsys, "settings", "seed").startswith(
        "  seed: 0    (whole number at least 0, below "
    )
    kinds = said(capsys, "settings", "model.name")
    assert kinds.startswith(f"  model.name: required    ({' | '.join(MODELS)})\n      the network")
    ensemble = said(capsys, "settings", "posterior.ensemble")
    assert ensemble.startswith("posterior: {name: ensemble}  K networks, each trained from weights")
    assert "  anchored: false    (true | false)\n" in ensemble
    assert "samples" not in ensemble.partition("\n")[2].replace("posterior", "").split(":")[0]
    section = said(capsys, "settings", "loss")
    assert "  loss.exact: true    (true | false)\n" in section
    assert "loss: {name: almost_fair_crps}" in section
    assert "  alpha: 0.95    (number)\n" in section


def test_the_overview_names_every_section_and_choice(capsys: pytest.CaptureFixture[str]) -> None:
    words = said(capsys, "settings").split()
    assert set(Settings.model_fields) <= set(words)
    assert {name for table, _ in choices().values() for name in table} <= set(words)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("posteriors", "there is no such section; expected one of grid, posterior,"),
        ("posteriors", "did you mean posterior?"),
        ("train.rl", "there is no such key or choice of train; expected one of steps, epochs,"),
        ("model.swim", "patch_transformer, name; did you mean swin?"),
    ],
)
def test_an_unknown_name_is_refused(
    name: str, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["settings", name]) == 2
    assert advice in capsys.readouterr().err


def test_the_schema_knows_every_key_of_the_bundled_files() -> None:
    whole = schema()
    assert whole == json.loads(json.dumps(whole))
    for path in CONFIGS.glob("*.yaml"):
        content = yaml.safe_load(path.read_text())
        if "study" in content or "train" not in content:
            continue
        for section, keys in content.items():
            if section == "seed":
                continue
            record = whole["$defs"][f"{section.capitalize()}Settings"]
            known = set(record["properties"])
            name = keys.get("name") or record["properties"].get("name", {}).get("default")
            for branch in record.get("allOf", []):
                if branch["if"]["properties"]["name"]["const"] == name:
                    known |= set(branch["then"]["properties"])
            assert set(keys) <= known, (path.name, section)


def test_kinds_and_defaults_in_words() -> None:
    assert kind({"type": "integer", "minimum": 1, "maximum": 3}) == (
        "whole number at least 1, at most 3"
    )
    assert kind({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"const": "fan_in"}]}) == (
        "number above 0 | fan_in"
    )
    assert kind({"type": "array", "prefixItems": [{"type": "string"}, {"type": "string"}]}) == (
        "list of text, text"
    )
    assert kind({"type": "object", "additionalProperties": {"type": "integer"}}) == (
        "map to whole number"
    )
    shown = [in_yaml(value) for value in (1e-8, None, "", (2, 6), {0: 1}, True, "cosine")]
    assert shown == ["1.0e-08", "null", "''", "[2, 6]", "{0: 1}", "true", "cosine"]


def test_texts_of_a_docstring() -> None:
    class Base:
        """Do it.

        Parameters
        ----------
        a, b
            Two
            numbers.

            More of them.
        c
            One.

        Raises
        ------
        ValueError
            If not.
        """

    class Derived(Base):
        """Do it otherwise.

        Parameters
        ----------
        c
            As of ``Base``.
        d
            Its own.
        """

    expected = {"a": "Two numbers. More of them.", "b": "Two numbers. More of them.", "c": "One."}
    assert parameter_texts(Base) == expected
    assert parameter_texts(Derived) == {**expected, "d": "Its own."}


def test_settings_have_the_words_of_their_fields() -> None:
    keys = {key.name: key for key in own_keys(Settings.model_fields["train"].annotation)}
    assert keys["rollout"].default == "{0: 1}"
    assert keys["schedule"].kind == "constant | cosine"
    assert keys["batch_size"].default == "64"


def test_help_lists_and_shows_pages(capsys: pytest.CaptureFixture[str]) -> None:
    listed = [line.split(maxsplit=1) for line in said(capsys, "help").splitlines()]
    assert ["posteriors", "Posteriors: which method, and how to set it"] in listed
    page = said(capsys, "help", "posteriors")
    assert page == (Path(CONFIGS).parent / "guide" / "posteriors.md").read_text()
    assert "![" not in said(capsys, "help", "results")
    assert main(["help", "posterior"]) == 2
    assert "there is no such page" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error() -> None:
    words = f"{sys.executable} -m hpc_bnn settings data"
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {words} | head -1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("data: ")
