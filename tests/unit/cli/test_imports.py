"""What a rank imports before its first step: nothing heavy that its command does not use."""

import json
import subprocess
import sys
from pathlib import Path

import yaml

HEAVY = (
    "torch._dynamo", "torch._inductor", "sympy", "netCDF4", "xarray", "scipy", "sklearn", "pandas",
    "matplotlib", "horovod",
)  # fmt: skip
SETTINGS = {
    "posterior": {"samples": 2},
    "loss": {"name": "gaussian_nll"},
    "model": {"name": "mlp", "hidden": [8]},
    "data": {"name": "synthetic_series", "length": 300},
    "train": {"steps": 1, "batch_size": 8, "device": "cpu"},
}
# Each line is what was imported by then.
PROGRAM = f"""
import json, sys

def tell():
    print(json.dumps([name for name in ("torch", "numpy", *{HEAVY}) if name in sys.modules]))

import hpc_bnn.cli.arguments
tell()
import hpc_bnn.cli.program
tell()
assert hpc_bnn.cli.program.main(["train", sys.argv[1], "--run", sys.argv[2]]) == 0
tell()
"""


def test_a_run_imports_nothing_heavy_but_torch(tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, config, tmp_path / "run"], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    lines = [line for line in ended.stdout.splitlines() if line.startswith("[")]
    assert list(map(json.loads, lines)) == [[], ["torch", "numpy"], ["torch", "numpy"]]
