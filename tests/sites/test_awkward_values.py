"""Values, names and paths that a shell would expand come through the job scripts as they are.

Bash runs the scripts; ``srun`` runs its command, ``python`` notes its arguments, ``sbatch`` runs
its script. Whatever is expanded on the way makes the file EXPANDED.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from site_files import render

from hpc_bnn.config import load_settings
from hpc_bnn.study.plan_file import make_plan, write_plan

VALUES = {
    "spaces": "data.path=/work/my data/  era5 ",
    "quotes": """data.path=it's "quoted" 'twice' \\" \\'""",
    "command": "data.path=$(touch EXPANDED)",
    "backticks": "data.path=`touch EXPANDED`",
    "variable": "data.path=$HOME ${HOME} $$ $? !!",
    "chain": "data.path=a; touch EXPANDED && touch EXPANDED | tee EXPANDED & #",
    "lines": "data.path=one\ntouch EXPANDED\n#SBATCH --exclusive\n",
    "tab": "data.path=a\tb",
    "glob": "data.path=* ? [a-z] {a,b} ~",
    "unicode": "data.path=M\u00fcnchen \u2603 \U0001f327",
    "redirect": "data.path=<(touch EXPANDED) >EXPANDED 2>&1",
    "format": "data.path=%s %n %j %x",
    "backslash": "data.path=C:\\new\\table\\",
    "empty": "data.path=",
}
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
exec "$@"
"""
SBATCH = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
exec bash "$@" >>sbatch.out 2>&1
"""
PYTHON = r"""#!/bin/bash
printf '%s\0' "$@" >>noted
"""
JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_NAME": "train"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site that lies in a folder with an awkward name."""
    name = """a $(touch EXPANDED) `touch EXPANDED` "b" 'c' $HOME \u00e4"""
    folder = tmp_path_factory.mktemp("site") / name
    made = render("generic_slurm", folder)
    (made / "env").unlink()
    (made / "env" / "bin").mkdir(parents=True)
    for command, text in {"srun": SRUN, "sbatch": SBATCH, "python": PYTHON}.items():
        (made / "env" / "bin" / command).write_text(text)
        (made / "env" / "bin" / command).chmod(0o755)
    return made


def run(site: Path, folder: Path, script: str, *words: str | Path) -> list[str]:
    """Run a script and return the words that ``python`` was given."""
    done = subprocess.run(
        ["bash", site / "jobscripts" / script, *words],
        cwd=folder, env={"PATH": f"{site}/env/bin:{os.environ['PATH']}", "HOME": "/home/me", **JOB},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not list(folder.rglob("EXPANDED"))
    return (folder / "noted").read_bytes().decode().split("\0")[:-1]


@pytest.mark.parametrize("kind", VALUES)
def test_of_a_training(site: Path, tmp_path: Path, kind: str) -> None:
    run_folder = tmp_path / "it's $(touch EXPANDED) `touch EXPANDED` a run"
    noted = run(site, tmp_path, "train.sbatch", "a $(b).yaml", VALUES[kind], "--run", run_folder)
    first = noted.index("train")
    assert noted[first + 1 : first + 3] == ["a $(b).yaml", VALUES[kind]]
    assert noted[-3:] == ["--run", str(run_folder), "--resume"]
    assert run_folder.is_dir()


@pytest.mark.parametrize("script", ["data", "doctor", "evaluate", "forecast"])
def test_of_other_commands(site: Path, tmp_path: Path, script: str) -> None:
    words = list(VALUES.values())
    assert run(site, tmp_path, f"{script}.sbatch", *words)[-len(words) :] == words


def test_of_a_script_of_ones_own(site: Path, tmp_path: Path) -> None:
    own = tmp_path / "my $(touch EXPANDED) script.py"
    own.touch()
    words = [str(own), *VALUES.values()]
    assert run(site, tmp_path, "script.sbatch", *words)[-len(words) :] == words


def test_of_a_scaling_study_without_a_plan(site: Path, tmp_path: Path) -> None:
    for value in VALUES.values():
        (tmp_path / "noted").unlink(missing_ok=True)
        words = ("--nodes", "1", "--modes", "sample", "--independent", "a $(b).yaml", value)
        noted = run(site, tmp_path, "scaling.sh", *words)
        first = noted.index("train")
        assert noted[first + 1 : first + 3] == ["a $(b).yaml", value]


def test_of_a_planned_study(site: Path, tmp_path: Path) -> None:
    """Settings of a study are in its file; only numbers and names of points pass through bash."""
    folder = tmp_path / "st $(touch EXPANDED) `touch EXPANDED` udy"
    path = "/work/my $(touch EXPANDED) `touch EXPANDED`\n\"data\" 'here'"
    study = tmp_path / "study.yaml"
    content = {
        "config": "demo.yaml",
        "overrides": [f"train.start_from={json.dumps(path)}"],
        "kinds": ["fixed_samples"],
        "modes": ["sample"],
        "nodes": [1, 2],
        "ranks_per_node": 2,
    }
    study.write_text(yaml.safe_dump(content), encoding="utf-8")
    plan, resolved = make_plan(study, folder)
    write_plan(plan, resolved)
    noted = run(site, tmp_path, "scaling.sh", "--plan", folder, "--independent")
    assert noted.count("train") == len(plan.points)
    first = noted.index("train")
    assert noted[first + 1] == str(folder / "settings.yaml")
    assert noted[noted.index("--run") + 1] == str(folder / "points" / plan.points[0].name)
    overrides = noted[first + 2 : noted.index("--default")]
    assert overrides == list(plan.points[0].overrides)
    assert load_settings(folder / "settings.yaml", overrides).train.start_from == path


def test_a_path_with_a_semicolon_is_refused(tmp_path: Path) -> None:
    """CMake takes it for two, and would write into the first."""
    with pytest.raises(AssertionError, match=r"one;two:\s+a\s+path\s+with\s+a\s+semicolon"):
        render("generic_slurm", tmp_path / "one;two")
    assert not list(tmp_path.iterdir())
