"""The sources of a clone, first on Python's path but never built: one line, not a traceback."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hpc_bnn


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(
        Path(hpc_bnn.__file__).parent,
        folder / "hpc_bnn",
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
    )
    return folder


def run(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_command_in_an_unbuilt_clone_ends_with_one_line(clone: Path) -> None:
    done = run(clone, "-m", "hpc_bnn", "doctor")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"hpc-bnn: {clone}/hpc_bnn is not built: hpc_bnn.data._decode is missing; build it "
        f"(pip install -e {clone}), or leave this folder if hpc_bnn is installed elsewhere\n"
    )


def test_a_script_gets_an_error_that_says_so(clone: Path) -> None:
    """And each extension its own."""
    done = run(clone, "-c", "import hpc_bnn; import hpc_bnn.fields.pack.reader")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        f"hpc_bnn.compiled.NotBuiltError: {clone}/hpc_bnn is not built: hpc_bnn.data._decode is "
    )
    noise = (
        "import sys, types; sys.modules['hpc_bnn.data._decode'] = types.ModuleType('made up')\n"
        "import hpc_bnn, torch; from hpc_bnn.bayes import noise\n"
        "print(noise.backend(torch.device('cpu')).__name__)"
    )
    done = run(clone, "-c", noise)
    assert done.stdout == "hpc_bnn.bayes.noise_reference\n"
    assert "slow torch reference" in done.stderr
    assert "hpc_bnn.bayes._noise is missing; build it" in done.stderr
