"""Study files: what is read, and how mistakes are told."""

from pathlib import Path
from typing import Any

import pytest
from fabricated import study_file

from hpc_bnn.config import CONFIGS, SettingsError
from hpc_bnn.study.plan_file import make_plan
from hpc_bnn.study.study_file import find_file, load_study


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("scaling_*.yaml")), ids=lambda path: path.name)
def test_bundled_studies_are_good(path: Path, tmp_path: Path) -> None:
    plan, settings = make_plan(Path(path.name), tmp_path / "runs")
    assert len(plan.points) >= 10
    assert plan.study.repeats >= 3
    assert settings.posterior.samples > 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"kind": ["fixed_samples"]}, "kind: unknown key; did you mean kinds?"),
        ({"kinds": None}, "kinds: missing; what grows with the ranks"),
        ({"kinds": []}, "kinds = []: list should have at least 1 item"),
        ({"kinds": ["strong"]}, "kinds = 'strong': input should be 'fixed_samples'"),
        ({"repeats": "3"}, "repeats = '3': input should be a valid integer"),
        ({"repeats": 0}, "repeats = 0: input should be greater than 0"),
        ({"ranks": None}, "set one of ranks and nodes"),
        ({"nodes": [1]}, "set one of ranks and nodes"),
        ({"ranks": None, "nodes": [1, 2]}, "nodes needs ranks_per_node"),
        ({"ranks_per_node": 2}, "leave out ranks_per_node"),
        ({"ranks": [1, 2, 2]}, "ranks = [1, 2, 2]: names something twice"),
        ({"steps": 6}, "set steps to at least 7"),
        ({"modes": ["sample", "hybrid"]}, "mode hybrid needs sample_ranks"),
        ({"modes": {"sample": [1, 3]}}, "modes name [3], which ranks = [1, 2, 4] does not"),
        ({"modes": ["local", "data"], "ranks": [2, 4]}, "mode local runs on one rank"),
        ({"modes": ["sample"], "kinds": ["growing_batch"]}, "need mode data or hybrid"),
    ],
)
def test_mistakes(tmp_path: Path, keys: dict[str, Any], said: str) -> None:
    path = study_file(tmp_path, **keys)
    with pytest.raises(SettingsError) as caught:
        load_study(path)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("text", "said"), [("a: [", "not YAML"), ("- 1", "expected keys"), ("", "expected keys")]
)
def test_no_study(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=said):
        load_study(path)


def test_files_are_found_beside_the_study_by_path_and_by_name(tmp_path: Path) -> None:
    path = study_file(tmp_path)
    assert find_file(Path("settings.yaml"), beside=path) == tmp_path / "settings.yaml"
    assert find_file(path) == path
    assert find_file(Path("scaling_local.yaml")) == CONFIGS / "scaling_local.yaml"
    with pytest.raises(FileNotFoundError, match="no such study file"):
        load_study(find_file(Path("absent.yaml")))


def test_wrong_settings_name_the_file_and_the_override(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.yaml: no such settings file"):
        make_plan(study_file(tmp_path, config="absent.yaml"), tmp_path / "runs")
    path = study_file(tmp_path, overrides=["train.lr=high"])
    with pytest.raises(SettingsError) as caught:
        make_plan(path, tmp_path / "runs")
    assert str(caught.value).startswith(f"{path}: overrides: train.lr = 'high'")
    with pytest.raises(SettingsError, match=r"model\.wide: unknown key"):
        make_plan(study_file(tmp_path, overrides=["model.wide=3"]), tmp_path / "runs")
