"""The Triton kernel against the torch reference: words bit for bit, normals to 1e-6.

Runs on a GPU, or with TRITON_INTERPRET=1 on the CPU where Triton is installed; skipped elsewhere.
"""

import os

import pytest
import torch

from hpc_bnn.bayes import noise_reference
from hpc_bnn.bayes.noise import DRAW, NORMALS, PULL, WORDS, Purpose, Stream

pytest.importorskip("triton", reason="Triton is not installed")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("no GPU, and TRITON_INTERPRET is not set", allow_module_level=True)

from hpc_bnn.bayes import noise_triton

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
STREAMS = [
    Stream(0, Purpose.WEIGHTS),
    Stream(2**48 - 1, Purpose.OBSERVATION, 2**32 - 1, 2**32 - 1),
    Stream(5, Purpose.DROPOUT, step=7, sample=9),
]
# One element; two programs; block numbers beyond 32 bits.
RANGES = [(3, 1), (1023, 1026), (2**35 + 2, 1030)]


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize(("offset", "count"), RANGES)
def test_words_equal_reference(stream: Stream, offset: int, count: int) -> None:
    out = torch.empty(count, dtype=torch.int32, device=DEVICE)
    expected = torch.empty_like(out)
    noise_triton.fill(WORDS, out, stream, offset)
    noise_reference.words(expected, stream, offset)
    assert torch.equal(out, expected)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize(("offset", "count"), RANGES)
def test_normals_draw_and_pull_equal_reference(stream: Stream, offset: int, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    mu, log_sigma, grad = (torch.randn(count, generator=generator).to(DEVICE) for _ in range(3))
    out, kept, expected, shift = (torch.empty(count, device=DEVICE) for _ in range(4))

    noise_triton.fill(NORMALS, out, stream, offset, sign=-1.0)
    noise_reference.normals(expected, stream, offset, -1.0)
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=0)

    for backend, result, keep in ((noise_triton, out, kept), (noise_reference, expected, shift)):
        backend.fill(DRAW, result, stream, offset, mu=mu, log_sigma=log_sigma, keep=keep)
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=2e-6)
    torch.testing.assert_close(kept, shift, atol=1e-6, rtol=2e-6)

    for backend, result in ((noise_triton, out), (noise_reference, expected)):
        backend.fill(PULL, result, stream, offset, grad=grad, log_sigma=log_sigma)
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=2e-6)
