"""Without a compiled kernel the torch reference runs, says so once, and gives the same numbers."""

import json
import subprocess
import sys
import types

import pytest
import torch

from hpc_bnn.bayes import noise
from hpc_bnn.bayes.noise import Purpose, Stream

# A fresh interpreter in which the compiled kernel is as good as missing.
PROGRAM = """
import json, sys, warnings

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name == "hpc_bnn.bayes._noise":
            raise ImportError("blocked by the test")

sys.meta_path.insert(0, Blocker())

import torch
from hpc_bnn.bayes import noise
from hpc_bnn.bayes.draw import draw_together

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    stream = noise.Stream(17, noise.Purpose.WEIGHTS, 3, 1)
    words = noise.words(stream, 9, offset=2).tolist()
    normals = noise.normals(stream, (9,), offset=2).tolist()
    mu = torch.zeros(5, requires_grad=True)
    log_sigma = torch.zeros(5, requires_grad=True)
    (weights,) = draw_together([mu], [log_sigma], noise.Key(17, 3, (1, 2)), 2)
    weights.sum().backward()
print(json.dumps({
    "backend": noise.backend(torch.device("cpu")).__name__,
    "warnings": [str(w.message) for w in caught if w.category is UserWarning],
    "words": words, "normals": normals,
    "weights": weights.tolist(), "pulled": log_sigma.grad.tolist(),
}))
"""


def test_reference_takes_over_with_one_warning() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["backend"] == "hpc_bnn.bayes.noise_reference"
    (warning,) = found["warnings"]
    assert "slow torch reference" in warning and "blocked by the test" in warning
    stream = Stream(17, Purpose.WEIGHTS, 3, 1)
    eps = noise.normals(stream, (9,), offset=2)
    other = noise.normals(Stream(17, Purpose.WEIGHTS, 3, 2), (5,), offset=2)
    assert found["words"] == noise.words(stream, 9, offset=2).tolist()
    assert torch.tensor(found["normals"]) == pytest.approx(eps, abs=1e-6)
    assert torch.tensor(found["weights"]) == pytest.approx(torch.stack([eps[:5], other]), abs=1e-6)
    assert torch.tensor(found["pulled"]) == pytest.approx(eps[:5] + other, abs=2e-6)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"PATH": ""}, "Failed to find C compiler"),
        ({"CC": "/bin/false"}, "returned non-zero exit status"),
        ({"CC": "/no/such/compiler"}, "No such file or directory"),
    ],
    ids=["none", "broken", "elsewhere"],
)
def test_a_node_without_a_compiler(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], reason: str
) -> None:
    """What Triton does where it is to compile its kernel, which has no cache yet."""
    build = pytest.importorskip("triton.runtime.build")
    module = types.ModuleType("hpc_bnn.bayes.noise_triton")
    module.fill = lambda *_, **__: build._build("k", "k.c", ".", [], [], [], [])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delenv("CC", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.warns(UserWarning, match="slow torch reference: no kernel") as caught:
        loaded = noise._load.__wrapped__("noise_triton", "no kernel", torch.device("cpu"))
    assert loaded.__name__ == "hpc_bnn.bayes.noise_reference"
    assert any(reason in str(warning.message) for warning in caught)


def test_other_failures_of_a_kernel_are_no_reason_to_go_on() -> None:
    def fill(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    module = types.ModuleType("kernel")
    module.fill = fill  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="illegal memory access"):
        noise._try(module, torch.device("cpu"))


def test_the_kernel_is_built_here() -> None:
    assert noise.backend(torch.device("cpu")).__name__ == "hpc_bnn.bayes.noise_cpu"
