"""The device of the tests, and the helper modules of this folder.

``--device cuda`` by default; where there is no GPU, tests that would run on it are skipped, and say
why. ``--device cpu`` runs those on the CPU that mean something there: this is how their code is
tested where there is no GPU.
"""

import sys
from pathlib import Path

import pytest
import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "bench")]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=["cuda", "cpu"], default="cuda", help="of tests/gpu")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """Return what is tested: a GPU, or with ``--device cpu`` the CPU."""
    chosen = torch.device(request.config.getoption("--device"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU; --device cpu runs this test on the CPU")
    return chosen
