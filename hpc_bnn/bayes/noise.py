"""Keyed noise: every random number of a run is a pure function of what it is for.

Element ``i`` of the stream (seed, purpose, step, sample) is word ``i % 4`` of the Philox4x32-10
block with

    counter = (i // 4 low 32 bits, i // 4 high 32 bits, step, sample)
    key = seed + 2**48 * purpose.

Nothing else enters: no generator state, no rank, no device. So any rank can make any part of any
draw, in any order, and backward makes its noise again instead of keeping it. The map from (seed,
purpose, step, sample, i) to (key, counter) is one-to-one, so two uses of noise never share a number
by accident.

Words become standard normals by Box-Muller on the pairs (0, 1) and (2, 3) of a block: the first
word gives the radius ``sqrt(-2 log(u))`` with ``u = (word + 1/2) / 2**32`` rounded to float32, the
second the angle ``2 pi word / 2**32``.

Three implementations agree, words bit for bit and normals to 1e-6: ``_noise.c`` on CPUs,
``noise_triton`` on GPUs, ``noise_reference`` anywhere (slow; it defines what the others must give).

Source: Salmon, Moraes, Dror, Shaw 2011, doi:10.1145/2063384.2063405 (Philox); Box, Muller 1958,
doi:10.1214/aoms/1177706645.
"""

import importlib
import subprocess
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cache
from types import ModuleType

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

SEED_LIMIT = 1 << 48
COUNTER_LIMIT = 1 << 32
REDRAWN = 1 << 16  # samples that can be drawn anew, which they are as those so many further on


class Purpose(IntEnum):
    """What a stream is for. A value, once released, never changes: published runs hang on it."""

    WEIGHTS = 0
    PREDICTION = 1
    ORDER = 2
    AUGMENTATION = 3
    DROPOUT = 4
    OBSERVATION = 5
    FOREIGN = 6
    INITIAL = 7  # weights of members
    ANCHORS = 8
    TARGETS = 9
    DYNAMICS = 10
    DEVIATIONS = 12
    PREDICTION_DROPOUT = 13
    FACTOR = 14
    LAPLACE = 15
    PERTURBATION = 16  # of initial states of forecasts
    PERTURBED_INPUT = 17  # of training
    PERTURBED_VALIDATION = 18


@dataclass(frozen=True)
class Stream:
    """The name of one endless sequence of random numbers.

    Attributes
    ----------
    shift
        (2,) int64 on the device of the noise: what is added to ``step`` and ``sample`` when the
        numbers are made, so that a captured pass is replayed as that of another step and sample.

    Raises
    ------
    ValueError
        If ``seed`` is not in [0, 2**48) or ``step`` or ``sample`` is not in [0, 2**32).
    """

    seed: int
    purpose: Purpose
    step: int = 0
    sample: int = 0
    shift: Tensor | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        limits = {"seed": SEED_LIMIT, "step": COUNTER_LIMIT, "sample": COUNTER_LIMIT}
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) < limit:
                raise ValueError(
                    f"noise stream: {name} = {getattr(self, name)}: must be at least 0 and "
                    f"less than 2**{limit.bit_length() - 1}"
                )

    @property
    def key(self) -> int:
        """64-bit Philox key."""
        return self.seed | self.purpose << 48

    def resolved(self) -> "Stream":
        """Return the stream without a shift; where there is one, it is asked for."""
        if self.shift is None:
            return self
        step, sample = self.shift.tolist()
        return replace(self, step=self.step + step, sample=self.sample + sample, shift=None)


@dataclass(frozen=True)
class Key:
    """The name of the weight samples of one step: what is random in them is a function of it.

    Attributes
    ----------
    samples
        Their global indices.
    preceding
        How many samples of the step went backward before these, in earlier passes, whose gradients
        the parameters hold. No number depends on it.
    shift
        As of ``Stream``.
    """

    seed: int
    step: int
    samples: tuple[int, ...]
    purpose: Purpose = Purpose.WEIGHTS
    preceding: int = 0
    shift: Tensor | None = field(default=None, compare=False)

    def resolved(self) -> "Key":
        """Return the key without a shift; where there is one, it is asked for."""
        if self.shift is None:
            return self
        step, sample = self.shift.tolist()
        samples = tuple(each + sample for each in self.samples)
        return replace(self, step=self.step + step, samples=samples, shift=None)

    def redrawn(self, times: int) -> "Key":
        """Return the key of the same samples, drawn anew so many times within the step.

        Raises
        ------
        ValueError
            If there are too many samples for that.
        """
        last = max(self.samples)
        if times and last >= REDRAWN:
            raise ValueError(f"weight sample {last}: 0 to {REDRAWN - 1} can be drawn anew")
        return replace(self, samples=tuple(each + REDRAWN * times for each in self.samples))


WORDS, NORMALS, DRAW, PULL = range(4)  # what ``fill`` fills with


@cache
def _load(name: str, fallback_reason: str, device: torch.device) -> ModuleType:
    try:
        module = importlib.import_module(f"hpc_bnn.bayes.{name}")
        _try(module, device)
        return module
    except ImportError as error:
        warnings.warn(
            f"keyed noise runs on the slow torch reference: {fallback_reason} ({error})",
            stacklevel=3,
        )
        return importlib.import_module("hpc_bnn.bayes.noise_reference")


def _try(module: ModuleType, device: torch.device) -> None:
    """Raise ImportError where Triton cannot compile ``module``: its kernels are compiled when they
    are first used, which takes a C compiler, and compute nodes may have none.
    """
    if device.type == "cuda" and not torch.cuda.is_available():
        return  # a memory estimate for a GPU that is elsewhere
    try:
        with unset_fake_temporarily():
            out = torch.empty(4, dtype=torch.float32, device=device)
            module.fill(NORMALS, out, Stream(0, Purpose.WEIGHTS), 0)
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        if isinstance(error, RuntimeError) and "compiler" not in str(error):
            raise
        raise ImportError(str(error)) from error


def backend(device: torch.device) -> ModuleType:
    """Return the module whose ``fill`` works on ``device``; the reference, with one warning, where
    none was built or can be compiled.
    """
    if device.type == "cpu":
        reason = "the C kernel was not compiled; install the package with a C compiler"
        return _load("noise_cpu", reason, device)
    if device.type == "cuda":
        reason = "Triton is missing or finds no C compiler; pip install triton, and set CC"
        return _load("noise_triton", reason, device)
    reason = f"no kernel for devices of type {device.type!r}"
    return _load(f"noise_{device.type}", reason, device)


def fill(
    task: int,
    out: Tensor,
    stream: Stream,
    offset: int,
    *,
    sign: float = 1.0,
    mu: Tensor | None = None,
    log_sigma: Tensor | None = None,
    grad: Tensor | None = None,
    keep: Tensor | None = None,
) -> None:
    """Fill ``out`` (N,) from the elements of a stream that begin at ``offset``.

    With eps = sign * normal, WORDS: their bits (int32). NORMALS: eps. DRAW: mu + exp(log_sigma) *
    eps, and ``keep``, where given, with the second term. PULL: grad * exp(log_sigma) * eps, a
    draw's gradient to log_sigma.
    """
    if type(out) is Tensor and not torch.compiler.is_compiling():
        # Not through the dispatcher, which takes longer than a thousand numbers.
        backend(out.device).fill(
            task, out, stream, offset, sign=sign, mu=mu, log_sigma=log_sigma, grad=grad, keep=keep
        )
    else:
        name = stream.seed, int(stream.purpose), stream.step, stream.sample
        _fill(task, out, mu, log_sigma, grad, keep, stream.shift, *name, offset, sign)


@torch.library.custom_op("hpc_bnn::fill_noise", mutates_args=("out", "keep"))
def _fill(
    task: int,
    out: Tensor,
    mu: Tensor | None,
    log_sigma: Tensor | None,
    grad: Tensor | None,
    keep: Tensor | None,
    shift: Tensor | None,
    seed: int,
    purpose: int,
    step: int,
    sample: int,
    offset: int,
    sign: float,
) -> None:
    """``fill`` as torch knows it: for tensors without numbers and for ``torch.compile``."""
    stream = Stream(seed, Purpose(purpose), step, sample, shift)
    backend(out.device).fill(
        task, out, stream, offset, sign=sign, mu=mu, log_sigma=log_sigma, grad=grad, keep=keep
    )


@_fill.register_fake
def _fill_nothing(*_: object) -> None:
    return


def words(
    stream: Stream, count: int, *, offset: int = 0, device: torch.device | str = "cpu"
) -> Tensor:
    """Return ``count`` random integers in [0, 2**32) as int64 (count,)."""
    return bits(stream, (count,), offset=offset, device=device).to(torch.int64) & 0xFFFFFFFF


def bits(
    stream: Stream, shape: Sequence[int], *, offset: int = 0, device: torch.device | str = "cpu"
) -> Tensor:
    """Return the bits of the words as int32 of ``shape``, the cheapest noise there is."""
    out = torch.empty(list(shape), dtype=torch.int32, device=device)
    fill(WORDS, out, stream, offset)
    return out


def uniforms(
    stream: Stream, shape: Sequence[int], *, offset: int = 0, device: torch.device | str = "cpu"
) -> Tensor:
    """Return float32 uniforms in [0, 1), multiples of 2**-24, of ``shape``."""
    drawn = bits(stream, shape, offset=offset, device=device)
    high = drawn.bitwise_right_shift_(8).bitwise_and_(0xFFFFFF)  # without the copies of the sign
    return high.to(torch.float32).mul_(2.0**-24)


def normals(
    stream: Stream,
    shape: Sequence[int],
    *,
    offset: int = 0,
    sign: float = 1.0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return float32 standard normals, times ``sign``, of ``shape`` on ``device``."""
    out = torch.empty(list(shape), dtype=torch.float32, device=device)
    fill(NORMALS, out, stream, offset, sign=sign)
    return out


def permutation(stream: Stream, count: int) -> Tensor:
    """Return a random order of range(count) as int64 (count,), the same on every rank."""
    halves = words(stream, 2 * count).reshape(count, 2)
    return torch.argsort((halves[:, 0] << 31) | (halves[:, 1] >> 1), stable=True)
