"""Every variant of the Triton kernels becomes machine code for every GPU of the sites, on any host:
without local memory, in vectors of 16 bytes, and without a branch that threads take apart.

The interpreter of Triton has no compiler, so this file wants a process without TRITON_INTERPRET.
"""

import inspect
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("TRITON_INTERPRET is set", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.runtime.driver import driver

from hpc_bnn.bayes import kl_triton, noise_triton
from hpc_bnn.bayes.noise import NORMALS, WORDS, Key, Purpose, Stream

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx90a": GPUTarget("hip", "gfx90a", 64),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
VARIANTS = {
    "words": (noise_triton.fill_kernel, {"TASK": WORDS}),
    "normals": (noise_triton.fill_kernel, {"TASK": NORMALS}),
    "draw": (noise_triton.draw_kernel, {"KEEP": False}),
    "draw and keep": (noise_triton.draw_kernel, {"KEEP": True}),
    "pull": (noise_triton.pull_kernel, {}),
    "kl": (kl_triton.value_kernel, {}),
    "gradients of kl": (kl_triton.gradient_kernel, {}),
}
# Vectors that a thread of a whole piece, with two of them, loads and stores.
VECTORS = {
    "words": (0, 2),
    "normals": (0, 2),
    "draw": (4, 2),
    "draw and keep": (4, 4),
    "pull": (4, 2),
    "kl": (4, 0),
    "gradients of kl": (4, 4),
}
# Branches, each taken by all threads of a program: whole piece or edge; in and at the end of a loop
# over samples, of which a pull has one for either.
BRANCHES = {"draw": 3, "draw and keep": 3, "pull": 5}
# Others: float32.
POINTERS = {"table": "*i64", "shift": "*i64", "sums": "*fp64", "upstream": "*fp64"}


def compiled(name: str, target: str) -> CompiledKernel:
    kernel, constants = VARIANTS[name]
    signature, aligned = {}, {}
    for position, parameter in enumerate(inspect.signature(kernel.fn).parameters.values()):
        kind = parameter.annotation
        if kind is inspect.Parameter.empty:
            kind = POINTERS.get(parameter.name, "*i32" if name == "words" else "*fp32")
            aligned[(position,)] = [["tt.divisibility", 16]]
        constant = parameter.name in constants
        signature[parameter.name] = "constexpr" if constant else getattr(kind, "name", kind)
    signature = {k: re.sub("^int", "i", kind) for k, kind in signature.items()}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    return triton.compile(source, target=TARGETS[target])


@pytest.mark.parametrize("target", TARGETS)
def test_every_variant_compiles(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for name in VARIANTS:
        code = compiled(name, target)
        assert code.kernel[:4] == b"\x7fELF", name
        # Sums of a program's threads meet there.
        assert (code.metadata.shared > 0) == (name == "kl"), name
        if "ptx" in code.asm:
            instructions = Counter(
                re.findall(r"^\s*(?:@!?%p\d+ )?([a-z][a-z0-9_.]*)\s", code.asm["ptx"], re.M)
            )

            def count(prefix: str, of: Counter[str] = instructions) -> int:
                return sum(n for each, n in of.items() if each.startswith(prefix))

            assert count("ld.local") == count("st.local") == 0, name
            assert (count("ld.global.v4"), count("st.global.v4")) == VECTORS[name], name
            assert instructions["bra"] == BRANCHES.get(name, 1), name
            assert count("call") == 0, name


class NoDevice:
    """What Triton asks of a driver before it compiles, of a GPU that is not there."""

    def get_current_target(self) -> GPUTarget:
        return TARGETS["sm_90"]


class Recorded:
    """A kernel that is not launched: what would make a variant of it is kept, and what it was given
    last, by name.
    """

    def __init__(self, kernel: triton.JITFunction) -> None:
        self._bind = kernel.create_binder()[-1]
        self.variants: set[str] = set()
        self.given: dict[str, object] = {}

    def __getitem__(self, _grid: tuple[int, ...]) -> Callable[..., None]:
        return self._launch

    def _launch(self, *given: object, **constants: object) -> None:
        self.given, kinds, _ = self._bind(*given, **constants)
        self.variants.add(str(kinds))


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> dict[str, Recorded]:
    monkeypatch.setattr(driver, "_active", NoDevice())
    recorded = {kernel.fn.__name__: Recorded(kernel) for kernel, _ in VARIANTS.values()}
    for name, kernel in recorded.items():
        module = noise_triton if hasattr(noise_triton, name) else kl_triton
        monkeypatch.setattr(module, name, kernel)
    return recorded


def test_a_single_row_is_aligned_whatever_its_length(kernels: dict[str, Recorded]) -> None:
    """Its distance to the next one, which there is not, keeps no piece from vectors."""
    mu, log_sigma, out = (torch.zeros(1, 10) for _ in range(3))
    for samples, pitch in (((5,), 0), ((5, 6), 10)):
        rows = [tensor.expand(len(samples), 10).contiguous() for tensor in (out, mu)]
        key = Key(1, 2, samples)
        noise_triton.draw(*rows, [log_sigma[0]], key, 0, antithetic=False)
        given = kernels["draw_kernel"].given
        assert (given["pitch"], given["mu_pitch"]) == (pitch, pitch)
        noise_triton.pull(out[0], rows[1], [log_sigma[0]], key, 0, antithetic=False)
        assert kernels["pull_kernel"].given["pitch"] == pitch


def test_neither_values_nor_alignment_make_a_variant(kernels: dict[str, Recorded]) -> None:
    for seed, step, sample, offset, count, before in (
        (0, 0, 0, 0, 4, 0),
        (1, 1, 1, 1, 1, 1),
        (2**48 - 1, 2**32 - 1, 2**32 - 1, 2**40 + 16, 48, 2),
    ):
        stream = Stream(seed, Purpose.LAPLACE, step, sample)
        noise_triton.fill(WORDS, torch.empty(count, dtype=torch.int32), stream, offset)
        noise_triton.fill(NORMALS, torch.empty(count), stream, offset, sign=-1.0)
        mu, log_sigma, grad = (torch.zeros(before + count)[before:] for _ in range(3))
        key = Key(seed, step, (sample, 16, 17), Purpose.LAPLACE)
        for keep in (None, torch.empty(3, count)):
            rows = mu.expand(3, count)
            for means, antithetic in (([mu], True), (rows, False)):
                out = torch.empty(3, count)
                noise_triton.draw(
                    out, means, [log_sigma], key, offset, antithetic=antithetic, keep=keep
                )
        out = torch.empty(count)
        grads = grad.expand(3, count)
        noise_triton.pull(out, grads, [log_sigma], key, offset, antithetic=antithetic)
        kl_triton.value([mu], [log_sigma], [1.0 + before], 1.0 / count)
        kl_triton.gradients(torch.ones((), dtype=torch.float64), [mu], [log_sigma], [1.0], 0.5)
    assert sum(len(kernel.variants) for kernel in kernels.values()) == len(VARIANTS)
