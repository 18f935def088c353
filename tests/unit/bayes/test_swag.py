"""SWAG's moments and the covariance of its draws from iterates that are known."""

import logging
import math

import pytest
import torch
from torch import Tensor, nn

from hpc_bnn.bayes.noise import Purpose, Stream, normals
from hpc_bnn.bayes.swag import SWAG, around

K, RANK = 3, 4


def swag(dtype: torch.dtype = torch.float64, **options: object) -> SWAG:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).to(dtype)
    return SWAG(network, **{"samples": K, "rank": RANK, "seed": 5, **options})  # type: ignore[arg-type]


def feed(posterior: SWAG, iterates: int) -> list[dict[str, Tensor]]:
    """Put iterates into the members and return those after each step, from the first on."""
    generator = torch.Generator().manual_seed(1)
    posterior.initialise()
    all_rows = []
    for step in range(iterates):
        for rows in posterior.rows.values():
            noise = torch.randn(rows.shape, generator=generator, dtype=torch.float64)
            rows.data.copy_(3.0 + noise)
        posterior.collect(step)
        all_rows.append({name: rows.detach().clone() for name, rows in posterior.rows.items()})
    return all_rows


@pytest.mark.parametrize("count", [2, 3, 4, 11])
def test_moments_are_those_of_the_iterates(count: int) -> None:
    """mean, mean of squares minus square of the mean, and w_i - m_i of the last r, with m_i the
    mean at the time: the formulas of algorithm 1, and of the authors' code.
    """
    posterior = swag()
    iterates = feed(posterior, count)
    assert int(posterior.collected) == count
    for name in posterior.rows:
        values = torch.stack([rows[name] for rows in iterates])
        mean = values.mean(0)
        variance = values.square().mean(0) - mean.square()
        assert torch.allclose(getattr(posterior.means, name), mean, rtol=1e-13)
        assert torch.allclose(getattr(posterior.variances, name), variance, rtol=0, atol=1e-13)
        columns = getattr(posterior.deviations, name)
        for i in range(max(0, count - RANK), count):
            deviation = values[i] - values[: i + 1].mean(0)
            assert torch.allclose(columns[:, i % RANK], deviation, rtol=0, atol=1e-13)
        assert not columns[:, count:].any()


def test_the_variance_of_large_weights_keeps_its_digits() -> None:
    """In float32 mean(w^2) - mean(w)^2 of 1000 +- 0.01 is rounding only; means are rounded to 6e-5,
    a hundredth of the standard deviation.
    """
    posterior = swag(torch.float32)
    posterior.initialise()
    values = [1000 + 0.01 * math.sin(i) for i in range(20)]
    for step, value in enumerate(values):
        for rows in posterior.rows.values():
            rows.data.fill_(value)
        posterior.collect(step)
    held = torch.tensor(values)
    exact = held.double().var(correction=0)
    found = getattr(posterior.variances, "0/weight").double()
    assert torch.allclose(found, exact.expand_as(found), rtol=0.01)
    assert abs(held.square().mean() - held.mean().square() - exact) > exact


@pytest.mark.parametrize("count", [3, 9])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_the_covariance_of_draws_in_closed_form(count: int, scale: float) -> None:
    """A draw is m + A (e1, e2): A by unit vectors, A A^T = scale/2 (diag(v) + D D^T / (r - 1))."""
    posterior = swag(scale=scale)
    feed(posterior, count)
    columns = min(count, RANK)
    for name in posterior.rows:
        mean, variance, deviations = (each[1] for each in posterior._moments(name))
        size = mean.numel()
        maps = [
            around(
                torch.zeros_like(mean),
                variance,
                deviations,
                unit[:size].reshape(mean.shape),
                unit[size:],
                columns=columns,
                scale=scale,
            ).flatten()
            for unit in torch.eye(size + RANK, dtype=torch.float64)
        ]
        a = torch.stack(maps, 1)
        d = deviations[:columns].flatten(1).T
        expected = scale / 2 * (torch.diag(variance.flatten()) + d @ d.T / (columns - 1))
        assert torch.allclose(a @ a.T, expected, rtol=0, atol=1e-14)


def test_a_draw_is_that_of_its_sample_and_member() -> None:
    """Noise by sample, e1 by the position of a weight, e2 the same for all weights."""
    posterior = swag()
    feed(posterior, 9)
    samples = (0, 4, 5, 7 * K + 1)
    drawn = posterior.sample(posterior.key(0, samples, Purpose.PREDICTION))
    for i, sample in enumerate(samples):
        offset = 0
        e2 = normals(Stream(5, Purpose.DEVIATIONS, 0, sample), (RANK,)).double()
        for name in posterior.names:
            moments = [each[sample % K] for each in posterior._moments(name)]
            e1 = normals(Stream(5, Purpose.PREDICTION, 0, sample), moments[0].shape, offset=offset)
            offset += e1.numel()
            expected = around(*moments, e1.double(), e2, columns=RANK, scale=1.0)
            assert torch.allclose(drawn[name][i], expected, rtol=1e-12)
            alone = posterior.sample(posterior.key(0, (sample,), Purpose.PREDICTION))
            assert torch.equal(alone[name][0], drawn[name][i])
    assert all(not torch.equal(d[1], d[3]) for d in drawn.values())  # of one member


def test_many_draws_have_its_mean_and_variance() -> None:
    """Of one weight, within five standard errors of 20,000 draws."""
    posterior = swag(samples=1)
    feed(posterior, 9)
    count, name = 20_000, posterior.names[-1]
    draws = posterior.sample(posterior.key(0, range(count), Purpose.PREDICTION))[name].flatten()
    mean, variance, deviations = (each.flatten() for each in posterior._moments(name))
    expected = (variance + deviations.square().sum() / (RANK - 1)) / 2
    assert abs(draws.mean() - mean) <= 5 * (expected / count).sqrt()
    assert abs(draws.var() - expected) <= 5 * expected * math.sqrt(2 / count)


def test_collections_begin_after_the_start_and_come_every_so_many_steps() -> None:
    posterior = swag(start=3, collect_every=2)
    posterior.initialise()
    counts = []
    for step in range(9):
        posterior.collect(step)
        counts.append(int(posterior.collected))
    assert counts == [0, 0, 0, 0, 1, 1, 2, 2, 3]


def test_the_whole_training_tells_when_to_collect() -> None:
    chosen = swag(steps=400, rank=20)
    assert (chosen.start, chosen.collect_every) == (200, 5)
    alone = swag()
    assert (alone.start, alone.collect_every) == (0, 1)


def test_training_draws_the_members() -> None:
    posterior = swag()
    feed(posterior, 5)
    weights = posterior.sample(posterior.key(3, range(K)))
    for name in posterior.names:
        assert torch.equal(weights[name], posterior.rows[name.replace(".", "/")])
        assert weights[name].requires_grad


def test_before_two_collections_members_predict_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    posterior, x = swag(), torch.ones(2, 2, dtype=torch.float64)
    feed(posterior, 1)
    with caplog.at_level(logging.WARNING):
        outputs = posterior.predict(x, samples=2 * K)
        posterior.predict(x, samples=1)
    (record,) = caplog.records
    assert record.getMessage() == (
        "predicting with the weights of the members themselves: 1 collections after step 0, and "
        "SWAG needs 2"
    )
    assert torch.equal(outputs[:K], outputs[K:])
    assert torch.equal(outputs[:K], posterior(x, posterior.key(0, range(K))).detach())
    assert posterior.prediction_samples(64) == 64


def test_a_process_predicts_with_the_members_that_it_holds() -> None:
    whole, part = swag(), swag()
    feed(whole, 6)
    part.load_state_dict(whole.state_dict())
    part.hold(range(1, 3))
    assert getattr(part.deviations, "0/weight").shape == (2, RANK, 3, 2)
    x = torch.ones(2, 2, dtype=torch.float64)
    for sample in (1, 2, K + 1, 5 * K + 2):
        expected = whole.predict(x, samples=1, first=sample)
        assert torch.equal(part.predict(x, samples=1, first=sample), expected)
    with pytest.raises(ValueError, match=r"weight samples 0 to 0: .* members 1 to 2 of 3"):
        part.predict(x, samples=1, first=K)


def test_a_network_in_half_precision_has_moments_in_float32() -> None:
    posterior = swag(torch.bfloat16)
    feed(posterior, 3)
    assert getattr(posterior.variances, "2/bias").dtype == torch.float32
    drawn = posterior.sample(posterior.key(0, (0,), Purpose.PREDICTION))
    assert drawn["2.bias"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rank": 1}, r"posterior\.rank = 1: must be at least 2"),
        ({"start": -1}, r"posterior\.start = -1: must be at least 0"),
        ({"collect_every": 0}, r"posterior\.collect_every = 0: must be at least 1"),
        ({"scale": 0.0}, r"posterior\.scale = 0\.0: must be a positive number"),
        (
            {"steps": 40, "start": 20, "collect_every": 6},
            r"posterior\.rank = 4: 40 steps hold 3 collections, every 6 steps after step 20, fewer",
        ),
        ({"steps": 3}, r"posterior\.rank = 4: 3 steps hold 2 collections"),
        ({"steps": 9, "start": 12}, r"posterior\.rank = 4: 9 steps hold 0 collections"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        swag(**options)
