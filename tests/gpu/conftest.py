"""The device of the tests, and the helper modules of this folder.

``--device cuda`` by default; where there is no GPU, tests that would run on it are skipped, and say
why. ``--device cpu`` runs them on the CPU: this is how their code is tested where there is no GPU.
``--device auto`` takes what there is.
"""

import sys
from pathlib import Path

import pytest
import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "bench")]


def pytest_addoption(parser: pytest.Parser) -> None:
    kinds = ["cuda", "cpu", "auto"]
    parser.addoption("--device", choices=kinds, default="cuda", help="of tests/gpu")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """Return what is tested."""
    chosen, on_gpu = request.config.getoption("--device"), torch.cuda.is_available()
    if chosen == "auto":
        chosen = "cuda" if on_gpu else "cpu"
    if chosen == "cuda" and not on_gpu:
        pytest.skip("no GPU; --device cpu runs this test on the CPU")
    return torch.device(chosen)
