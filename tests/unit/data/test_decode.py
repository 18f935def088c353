"""The C kernel gives numpy's bits and sees whatever is not sane."""

import math

import hpc_bnn.data._decode as _decode
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

SANE = 1e28


@given(
    seed=st.integers(0, 99), levels=st.integers(1, 5), rows=st.integers(1, 9), wide=st.booleans()
)
def test_same_bits_as_numpy(seed: int, levels: int, rows: int, wide: bool) -> None:
    generator = np.random.default_rng(seed)
    size = 1e20 if wide else 300.0
    raw = (size * generator.standard_normal((levels, rows, 7))).astype(np.float32)
    shift, factor = generator.standard_normal((2, levels)).astype(np.float32)
    out = np.empty_like(raw)
    assert _decode.floats(raw, shift, factor, out, SANE)
    expected = (raw - shift[:, None, None]) * factor[:, None, None]
    assert np.array_equal(out.view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 9.96921e36, -1e28, 1e28])
@pytest.mark.parametrize("place", [(0, 0, 0), (2, 4, 6), (1, 3, 3)])
def test_one_strange_value_is_seen(bad: float, place: tuple[int, int, int]) -> None:
    raw = np.ones((3, 5, 7), np.float32)
    zero, one, out = np.zeros(3, np.float32), np.ones(3, np.float32), np.empty_like(raw)
    assert _decode.floats(raw, zero, one, out, SANE) is True
    raw[place] = bad
    assert _decode.floats(raw, zero, one, out, SANE) is False
    assert np.array_equal(out, raw, equal_nan=True)


def test_what_does_not_fit_is_refused() -> None:
    raw, one = np.ones((3, 5), np.float32), np.ones(3, np.float32)
    with pytest.raises(ValueError, match="do not fit"):
        _decode.floats(raw, one, one, np.empty((3, 4), np.float32), SANE)
    with pytest.raises(ValueError, match="do not fit"):
        _decode.floats(raw, one, np.ones(2, np.float32), np.empty_like(raw), SANE)
    with pytest.raises(ValueError, match="do not fit"):
        _decode.floats(raw, np.ones(4, np.float32), np.ones(4, np.float32), raw.copy(), SANE)
    with pytest.raises(TypeError, match="read-write"):
        read_only = np.empty_like(raw)
        read_only.flags.writeable = False
        _decode.floats(raw, one, one, read_only, SANE)
