"""What ``cmake --install`` leaves runs without the source and the build folder."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from site_files import CMAKE, ENVIRONMENT, SOURCE, VERSION, cmake

LMOD = Path("/etc/profile.d/lmod.sh")


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    build = ENVIRONMENT.parent
    if not (build / "CMakeCache.txt").exists():
        pytest.skip(f"{build} is no build folder of CMake")
    folder = tmp_path_factory.mktemp("install") / "prefix"
    cmake("--install", str(build), "--prefix", str(folder))
    yield folder
    shutil.rmtree(folder)  # gigabytes


def alone(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script that cannot see the source folder, where this user may hide it."""
    kept = {key: os.environ[key] for key in ("HOME", "LANG") if key in os.environ}
    kept |= {key: value for key, value in os.environ.items() if "ALLOW_RUN_AS_ROOT" in key}
    hide = ["unshare", "--mount", "--map-root-user", "bash", "-ec",
            f'mount -t tmpfs none "{SOURCE}"; exec bash --noprofile -c "$0"']  # fmt: skip
    can_hide = shutil.which("unshare") and not subprocess.run([*hide, "true"]).returncode
    start = hide if can_hide else ["bash", "--noprofile", "-c"]
    return subprocess.run(
        [*start, script], cwd=cwd, env={"PATH": "/usr/bin:/bin", **kept}, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip


def test_scripts_and_package_are_its_own(prefix: Path, tmp_path: Path) -> None:
    scripts = [path for path in (prefix / "env" / "bin").iterdir() if not path.is_symlink()]
    for script in scripts:
        assert str(ENVIRONMENT).encode() not in script.read_bytes(), script
    code = "import hpc_bnn, hpc_bnn.bayes.noise_cpu as n; print(hpc_bnn.__file__, n.__file__)"
    done = alone(f"'{prefix}/env/bin/python' -c '{code}'", tmp_path)
    assert done.stdout.count(str(prefix)) == 2, done.stderr


@pytest.mark.skipif(not LMOD.exists(), reason="no Lmod on this machine")
def test_doctor_after_module_load(prefix: Path, tmp_path: Path) -> None:
    done = alone(
        f". {LMOD}; module use '{prefix}/modules'; module load hpc_bnn && hpc-bnn doctor", tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert VERSION in done.stdout


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    done = subprocess.run(
        [CMAKE, "--install", ENVIRONMENT.parent, "--prefix", tmp_path],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    assert "is no virtual environment" in done.stderr
