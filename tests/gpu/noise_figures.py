"""How fast the kernels of noise are, beside a copy on the same device.

Bytes are those that must move: a draw reads mu and log_sigma and writes a weight, a copy reads a
number and writes it.
"""

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from hpc_bnn.bayes.draw import draw_together
from hpc_bnn.bayes.gaussian_kl import kl
from hpc_bnn.bayes.noise import PULL, WORDS, Key, Purpose, Stream, fill, normals

Row = dict[str, str | int | float]
STREAM, KEY = Stream(1, Purpose.WEIGHTS, 2, 3), Key(1, 2, (3,))
PIECES = 100  # tensors of the draw of many


def seconds(run: Callable[[], object], device: torch.device, *, rounds: int) -> float:
    """Return the time of one call, the shortest of three averages over ``rounds``."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    run()
    times = []
    for _ in range(3):
        wait()
        begin = time.perf_counter()
        for _ in range(rounds):
            run()
        wait()
        times.append((time.perf_counter() - begin) / rounds)
    return min(times)


def noise_rows(device: torch.device, *, tiny: bool) -> Iterator[Row]:
    """Yield a row for each kernel, the copy first."""
    count, rounds = (1 << 16, 2) if tiny else (1 << 28, 5)
    mu, log_sigma, out = (torch.zeros(count, device=device) for _ in range(3))
    mus, log_sigmas = (
        [nn.Parameter(part) for part in torch.chunk(row[: count // 64], PIECES)]
        for row in (mu, log_sigma)
    )
    pulled = torch.empty_like(out)

    def complexity() -> Tensor:
        return kl([mu], [log_sigma], [1.0], 1.0)

    def gradients() -> None:
        leaves = [tensor.detach().requires_grad_() for tensor in (mu, log_sigma)]
        torch.autograd.grad(kl(leaves[:1], leaves[1:], [1.0], 1.0), leaves)

    kernels: dict[str, tuple[int, int, Callable[[], object]]] = {
        "copy": (8, count, lambda: out.copy_(mu)),
        "draw": (12, count, lambda: draw_together([mu], [log_sigma], KEY)),
        f"draw of {PIECES} tensors": (12, count // 64, lambda: draw_together(mus, log_sigmas, KEY)),
        "pull": (
            *(12, count),
            lambda: fill(PULL, pulled, STREAM, 0, grad=out, log_sigma=log_sigma),
        ),
        "normals": (4, count, lambda: normals(STREAM, (count,), device=device)),
        "words": (4, count, lambda: words_of(count, device)),
        "torch.randn": (4, count, lambda: torch.randn(count, device=device)),
        "kl": (8, count, complexity),
        "kl and its gradients": (24, count, gradients),
    }
    copy = None
    for name, (size, number, run) in kernels.items():
        with torch.set_grad_enabled("gradients" in name):
            took = seconds(run, device, rounds=rounds)
        rate = size * number / took / 1e9
        copy = copy or rate
        yield {
            "kernel": name,
            "numbers": number,
            "us": 1e6 * took,
            "GB/s": rate,
            "of copy": rate / copy,
        }


def words_of(count: int, device: torch.device) -> Tensor:
    """Return random words as they are made, without the copy to int64 of ``noise.words``."""
    out = torch.empty(count, dtype=torch.int32, device=device)
    fill(WORDS, out, STREAM, 0)
    return out
