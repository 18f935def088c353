"""Every variant of the Triton kernel becomes machine code for every GPU of the sites, on any host.

The interpreter of Triton has no compiler, so this file wants a process without TRITON_INTERPRET.
"""

import os
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("TRITON_INTERPRET is set", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hpc_bnn.bayes import noise_triton as kernel
from hpc_bnn.bayes.noise import DRAW, NORMALS, PULL, WORDS

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx90a": GPUTarget("hip", "gfx90a", 64),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
VARIANTS = [
    {"TASK": task, "KEEP": keep, "SIZE": kernel.BLOCK}
    for task, keep in (
        (WORDS, False),
        (NORMALS, False),
        (DRAW, False),
        (DRAW, True),
        (PULL, False),
    )
]
POINTERS = ("out", "mu", "log_sigma", "grad", "keep")
# Of 64 bits each: what a run of 2**31 parameters and more hands over.
INTEGERS = ("count", "key0", "key1", "step", "sample", "first", "skip")


@pytest.mark.parametrize("name", TARGETS)
def test_every_variant_compiles(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for variant in VARIANTS:
        element = "*i32" if variant["TASK"] == WORDS else "*fp32"
        signature = dict.fromkeys(POINTERS, element) | dict.fromkeys(INTEGERS, "i64")
        signature |= {"sign": "fp32"} | dict.fromkeys(variant, "constexpr")
        source = ASTSource(kernel._fill_kernel, signature, constexprs=variant)
        compiled = triton.compile(source, target=TARGETS[name])
        assert compiled.kernel[:4] == b"\x7fELF", (name, variant)
        assert compiled.metadata.shared == 0, (name, variant)
