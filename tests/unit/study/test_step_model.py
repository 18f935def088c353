"""The model of the step time: exact parameters back from exact times; sums that cannot be split."""

import math
from itertools import product

import pytest

from hpc_bnn.study.step_model import Exchange, Host, StepModel, Work, fit, terms

TRUTH = {
    "fixed": 2e-3,
    "examples": 1e-5,
    "draw": 5e-4,
    "compute": 2e-5,
    "latency": 3e-4,
    "payload": 2e-9,
    "latency_between": 8e-4,
    "payload_between": 4e-9,
    "exchange": 3e-7,
}
LOCAL = Host(cores=2, gradient_bytes=1e6)
CLUSTER = Host(gradient_bytes=1e6, joint=True)


def grids(counts: tuple[int, ...], per_node: int) -> list[Work]:
    """Return every grid of a few jobs, with K and B that divide."""
    found = []
    for ranks, samples, batch in product(counts, (24, 48), (24, 96)):
        for sample_ranks in (s for s in range(1, ranks + 1) if ranks % s == 0):
            nodes = math.ceil(ranks / per_node)
            found.append(Work(nodes, sample_ranks, ranks // sample_ranks, samples, batch))
    return found


def made(host: Host, contention: float, truth: dict[str, float] = TRUTH) -> StepModel:
    return StepModel(host, truth, contention)


@pytest.mark.parametrize("contention", [0.0, 0.13])
def test_parameters_come_back_on_one_node(contention: float) -> None:
    truth = {name: TRUTH[name] for name in ("fixed", "examples", "draw", "compute", "latency")}
    model = made(LOCAL, contention, {**truth, "payload": 2e-9})
    works = grids((1, 2, 3, 4), 4)
    found = fit(works, [model.predict(work) for work in works], LOCAL)
    assert found.contention == pytest.approx(contention, abs=1e-9)
    assert not found.undetermined
    for name, value in model.coefficients.items():
        assert found.coefficients[name] == pytest.approx(value, rel=1e-6), name
    # Nothing was measured between nodes: as within.
    assert found.coefficients["latency_between"] == found.coefficients["latency"]


def test_parameters_come_back_on_several_nodes() -> None:
    model = made(CLUSTER, 0.02)
    works = grids((1, 2, 4, 8, 16), 4)
    found = fit(works, [model.predict(work) for work in works], CLUSTER)
    assert found.contention == pytest.approx(0.02, abs=1e-9)
    for name, value in TRUTH.items():
        assert found.coefficients[name] == pytest.approx(value, rel=1e-6), name


def test_timed_exchanges_and_given_coefficients() -> None:
    """Two ranks alone cannot tell latency from bandwidth; a timed exchange can."""
    model = made(LOCAL, 0.0, {**TRUTH, "exchange": 0.0})
    works = grids((1, 2), 2)
    times = [model.predict(work) for work in works]
    assert set(fit(works, times, LOCAL).undetermined) == {"latency", "payload"}
    timed = [Exchange(2, 1, size, 3e-4 + 2e-9 * size) for size in (8, 1 << 26)]
    found = fit(works, times, LOCAL, exchanges=timed)
    assert not found.undetermined
    assert found.coefficients["payload"] == pytest.approx(2e-9, rel=1e-4)
    between = {"latency_between": 1e-3, "payload_between": 1e-10}
    found = fit(works, times, LOCAL, exchanges=timed, known=between)
    far = Work(4, 2, 4, 24, 24)
    expected = {**TRUTH, **between, "exchange": 0.0}
    assert found.predict(far) == pytest.approx(made(LOCAL, 0.0, expected).predict(far), rel=1e-3)


def test_slowdown() -> None:
    host = Host(cores=4, threads=2)
    assert [host.slowdown(p, 0.0) for p in (1, 2, 3, 4, 5)] == [1, 1, 2, 2, 3]
    assert [host.slowdown(p, 0.1) for p in (1, 2, 4)] == pytest.approx([1, 1.1, 2.2])
    assert Host().slowdown(100, 0.0) == 1


def test_terms_of_one_rank_are_compute_only() -> None:
    found = terms(Work(1, 1, 1, 3, 5), CLUSTER, 0.5)
    assert {name: value for name, value in found.items() if value} == {
        "fixed": 1, "examples": 5, "draw": 3, "compute": 15
    }  # fmt: skip


def test_too_few_points() -> None:
    with pytest.raises(ValueError, match="needs at least 3"):
        fit([Work(1, 1, 1, 1, 1)], [1.0], LOCAL)


def test_no_part_of_a_step_takes_less_than_no_time() -> None:
    """Times that fall with the samples: the least squares of them alone would be negative."""
    works = [Work(1, 1, 1, samples, 10) for samples in (1, 2, 4)]
    model = fit(works, [1.2, 1.1, 1.0], LOCAL)
    assert all(value >= 0 for value in model.coefficients.values())
    assert model.coefficients["draw"] == model.coefficients["compute"] == 0
