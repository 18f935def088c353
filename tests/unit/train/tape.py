"""A recorder for CPUs: it writes down the operators of some work and repeats them, on the tensors
that they had, without a line of Python of the work itself.

So it repeats what a CUDA graph repeats. Whatever the host computed, such as the step of a noise or
which half of a pair a sample is, stays what it was in the work that was recorded. Noise comes from
a kernel that no operator calls; ``noise_on_tape`` writes it down, with draw and pull of several
tensors at once as on GPUs.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as tree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from hpc_bnn.bayes import gaussian_kl, noise, noise_cpu
from hpc_bnn.bayes.draw import flatten, signed_streams
from hpc_bnn.bayes.noise import DRAW, PULL, Key
from hpc_bnn.train.step.recorder import WARM_UPS, Work

ASKING = {"_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal"}


class _Tape(TorchDispatchMode):
    def __init__(self, calls: list[Work]) -> None:
        super().__init__()
        self._calls = calls

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in ASKING and args[0].dtype != torch.uint8:  # states of generators
            raise RuntimeError(f"{name} is not permitted when the stream is capturing")
        results = func(*args, **kwargs)
        outputs = [
            (position, result)
            for position, result in enumerate(tree.tree_leaves(results))
            if isinstance(result, Tensor)
        ]
        returns = func._schema.returns
        # Of a list of tensors there is one entry, for all of them.
        aliases = [returns[min(i, len(returns) - 1)].alias_info for i, _ in outputs]
        fresh = [each for each, alias in zip(outputs, aliases, strict=True) if alias is None]
        if not fresh and not func._schema.is_mutable:
            return results  # views of memory that is there

        def again() -> None:
            anew = tree.tree_leaves(func(*args, **kwargs))
            for position, result in fresh:
                result.copy_(anew[position])

        self._calls.append(again)
        return results


class Tape:
    """Counts what it was asked for.

    Attributes
    ----------
    warm_ups, captures, replays
        How often.
    """

    def __init__(self) -> None:
        self.warm_ups = self.captures = self.replays = 0
        self._calls: list[Work] | None = None

    def warm_up(self, work: Work) -> None:
        self.warm_ups += 1
        for _ in range(WARM_UPS):
            work()

    def capture(self, work: Work) -> Work:
        self.captures += 1
        calls: list[Work] = []
        self._calls = calls
        try:
            with _Tape(calls):
                work()
        finally:
            self._calls = None

        def replay() -> None:
            self.replays += 1
            with torch.no_grad():
                for call in calls:
                    call()

        return replay

    def note(self, call: Work) -> None:
        """Do what is no operator, and write it down where something is recorded."""
        with _disable_current_modes():
            call()
        if self._calls is not None:
            self._calls.append(call)


def noise_on_tape(tape: Tape, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``tape`` record the noise, which is that of the CPU."""

    def fill(*args: Any, **kwargs: Any) -> None:
        tape.note(lambda: noise_cpu.fill(*args, **kwargs))

    def draw(
        out: Tensor,
        mus: Sequence[Tensor] | Tensor,
        log_sigmas: Sequence[Tensor],
        key: Key,
        offset: int,
        *,
        antithetic: bool,
        keep: Tensor | None = None,
    ) -> None:
        def call() -> None:
            rows = mus if isinstance(mus, Tensor) else flatten(mus).expand(out.shape)
            log_sigma = flatten(log_sigmas)
            for i, (stream, sign) in enumerate(signed_streams(key, antithetic=antithetic)):
                kept = torch.empty_like(log_sigma)
                given: dict[str, Any] = {
                    "mu": rows[i].contiguous(),
                    "log_sigma": log_sigma,
                    "keep": kept,
                }
                row = torch.empty_like(log_sigma)
                noise_cpu.fill(DRAW, row, stream, offset, sign=sign, **given)
                out[i].copy_(row)
                if keep is not None:
                    keep[i].copy_(kept)

        tape.note(call)

    def pull(
        out: Tensor,
        grad: Tensor,
        log_sigmas: Sequence[Tensor],
        key: Key,
        offset: int,
        *,
        antithetic: bool,
    ) -> None:
        def call() -> None:
            log_sigma = flatten(log_sigmas)
            part = torch.empty_like(log_sigma)
            out.zero_()
            for i, (stream, sign) in enumerate(signed_streams(key, antithetic=antithetic)):
                given: dict[str, Any] = {"grad": grad[i].contiguous(), "log_sigma": log_sigma}
                noise_cpu.fill(PULL, part, stream, offset, sign=sign, **given)
                out.add_(part)

        tape.note(call)

    module = SimpleNamespace(fill=fill, draw=draw, pull=pull)
    monkeypatch.setattr(noise, "backend", lambda device: module)
    # The complexity term is never recorded, and its kernel is for GPUs.
    monkeypatch.setattr(gaussian_kl, "apart", lambda tensors: None)
