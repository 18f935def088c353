"""The synthetic series: deterministic, labelled, and with the cycles and noise it promises."""

from __future__ import annotations

import pytest
import torch

from hpc_bnn.data.series.synthetic import load_like, synthetic_series
from hpc_bnn.data.series.windows import Windows

YEAR = 8766


def test_is_a_function_of_its_arguments() -> None:
    def values(seed: int) -> torch.Tensor:
        return load_like(500, 2, seed, noise=0.04, correlation=0.9)

    assert torch.equal(values(3), values(3))
    assert not torch.allclose(values(3), values(4), rtol=1e-2)


def test_stream_of_numpy_is_pinned() -> None:
    """First value of seed 0: a change would change published demo numbers. Tolerance: libm."""
    first = load_like(3, 1, 0, noise=0.04, correlation=0.9)
    pinned = [40.66503345489152, 42.92405997431455, 47.56336319435971]
    assert first.flatten().tolist() == pytest.approx(pinned, rel=1e-9)


def test_longer_series_starts_with_the_shorter() -> None:
    short = load_like(100, 2, 1, noise=0.04, correlation=0.9)
    assert torch.equal(load_like(200, 2, 1, noise=0.04, correlation=0.9)[:100], short)


def test_says_that_it_is_synthetic() -> None:
    source = synthetic_series(length=600, channels=2, seed=5, history=48, horizon=12)
    assert source.scale is not None
    assert "synthetic" in source.name
    assert "synthetic" in source.scale.units
    assert source.scale.channels == ("synthetic_load_0", "synthetic_load_1")
    assert source.input_shape == (48, 2)
    assert source.output_shape == (12, 2)
    assert isinstance(source.train, Windows)


def test_cycles() -> None:
    """Without noise the spectrum of 8 years has its lines at year, week, day and half a day."""
    values = load_like(8 * YEAR, 1, 0, noise=0.0, correlation=0.0)[:, 0]
    power = torch.fft.rfft(values - values.mean()).abs().square()
    for period in (YEAR, 168, 24, 12):
        at = round(8 * YEAR / period)
        background = power[[at - 40, at - 30, at + 30, at + 40]] if at > 40 else power[[16, 24]]
        assert power[at - 1 : at + 2].max() > 20 * background.max()
    assert values.min() > 0


def test_weekend_is_lower() -> None:
    """Start is a Monday: compare Wednesday with Sunday in a noise-free week."""
    week = load_like(168, 1, 0, noise=0.0, correlation=0.0)[:, 0].reshape(7, 24).mean(dim=1)
    assert week[5:].max() < 0.95 * week[:4].min()


def test_noise_is_proportional_to_the_level_and_correlated() -> None:
    """Relative noise: standard deviation 0.04, correlation 0.9 after one hour, at any level.

    40 000 hours of AR(1) with 0.9 are about 2100 independent values: 5 standard errors of the
    standard deviation are 8 %, of the correlation 0.011.
    """
    level = load_like(40_000, 1, 2, noise=0.0, correlation=0.9)[:, 0]
    noise = load_like(40_000, 1, 2, noise=0.04, correlation=0.9)[:, 0] / level - 1
    assert noise.std() == pytest.approx(0.04, rel=0.08)
    lagged = torch.corrcoef(torch.stack([noise[1:], noise[:-1]]))[0, 1]
    assert lagged == pytest.approx(0.9, abs=0.011)
    high = level > level.median()
    assert noise[high].std() / noise[~high].std() == pytest.approx(1.0, rel=0.12)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"length": 0}, "length = 0"),
        ({"channels": 0}, "channels = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"correlation": 1.0}, "correlation = 1.0: expected"),
        ({"noise": -0.1}, "noise = -0.1"),
        ({"length": 200}, r"synthetic_series\(seed=0\): .*expected at least 274 rows"),
    ],
)
def test_settings_out_of_range(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        synthetic_series(**settings)  # type: ignore[arg-type]
