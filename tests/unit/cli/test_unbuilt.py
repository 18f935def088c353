"""The sources of a clone, first on Python's path but never built: they work, and say what is slow."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import hpc_bnn

NOISE = """
import torch
from hpc_bnn.bayes import noise
print(noise.backend(torch.device("cpu")).__name__)
"""


def test_an_unbuilt_clone_works_and_says_that_its_noise_is_slow(tmp_path: Path) -> None:
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(Path(hpc_bnn.__file__).parent, tmp_path / "hpc_bnn", ignore=ignore)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", NOISE],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout == "hpc_bnn.bayes.noise_reference\n"
    (line,) = [line for line in done.stderr.splitlines() if "noise" in line and "Warning" in line]
    assert "slow torch reference: the C kernel was not compiled; install the package with" in line
