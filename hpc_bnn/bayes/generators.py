"""The random generators that nobody keys: those of torch, Python and numpy."""

import random

import numpy as np
import torch


class Generators:
    """Remembers where the generators of this process stand.

    A pass that moves them takes numbers that depend on the rank and on what ran before.
    """

    def __init__(self) -> None:
        self._torch = torch.get_rng_state()
        started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._cuda = torch.cuda.get_rng_state_all() if started else []
        self._python = random.getstate()
        self._numpy = np.random.get_state(legacy=False)  # noqa: NPY002  # what networks may use

    def moved(self) -> str | None:
        """Return the first generator that took a step since then, None if none did."""
        if not torch.equal(torch.get_rng_state(), self._torch):
            return "torch's generator"
        cuda = torch.cuda.get_rng_state_all() if self._cuda else []
        if any(not torch.equal(a, b) for a, b in zip(cuda, self._cuda, strict=True)):
            return "torch's CUDA generator"
        if random.getstate() != self._python:
            return "Python's random module"
        if _numbers(np.random.get_state(legacy=False)) != _numbers(self._numpy):  # noqa: NPY002
            return "numpy.random"
        return None

    def restore(self) -> None:
        """Put all of them back."""
        torch.set_rng_state(self._torch)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002


def _numbers(state: object) -> str:
    return repr([(key, np.asarray(value).tobytes()) for key, value in _flat(state)])


def _flat(state: object, name: str = "") -> list[tuple[str, object]]:
    if not isinstance(state, dict):
        return [(name, state)]
    return [row for key, value in state.items() for row in _flat(value, f"{name}.{key}")]
