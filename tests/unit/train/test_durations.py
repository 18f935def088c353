"""What a run knows of how long its steps took: exact sums, quantiles, and memory that stays."""

import math
import random
import tracemalloc
from statistics import median, quantiles

import pytest

from hpc_bnn.train.run.durations import KEPT, PARTS, WARMUP_STEPS, Durations
from hpc_bnn.train.step.phases import PHASES

Row = dict[str, float]


def steps(count: int) -> list[Row]:
    generator = random.Random(3)
    return [{part: generator.expovariate(1.0) for part in PARTS} for _ in range(count)]


def of(rows: list[Row]) -> Durations:
    durations = Durations()
    for row in rows:
        durations.add({phase: row[phase] for phase in PHASES}, data_wait_s=row["data"])
    return durations


@pytest.mark.parametrize("count", [1, 2, 3, 4, 50, KEPT + WARMUP_STEPS])
def test_figures_are_exact(count: int) -> None:
    """The first steps count only where there are no others."""
    rows = steps(count)
    durations = of(rows)
    warm = rows[WARMUP_STEPS:] or rows
    times = [sum(row[phase] for phase in PHASES) for row in warm]
    assert durations.count == len(warm)
    middle, p90 = durations.step_quantiles()
    assert middle == pytest.approx(median(times), rel=1e-14)
    expected = quantiles(times, n=10, method="inclusive")[-1] if len(times) > 1 else times[0]
    assert p90 == pytest.approx(expected, rel=1e-14)
    wholes = [sum(row.values()) for row in warm]
    assert durations.mean() == pytest.approx(math.fsum(wholes) / len(warm), rel=1e-12)
    assert durations.sum(*PHASES) == pytest.approx(math.fsum(times), rel=1e-12)
    for part in PARTS:
        assert durations.median(part) == median(row[part] for row in warm)


def test_no_step_has_no_figures() -> None:
    nothing = Durations()
    assert (nothing.count, nothing.sum(*PARTS)) == (0, 0.0)
    assert all(map(math.isnan, [*nothing.step_quantiles(), nothing.median("draw")]))


def test_many_steps_take_no_more_memory_and_have_right_figures() -> None:
    """Steps get longer with time, so a sample of the first or the last ones would be seen."""
    count, durations = 20 * KEPT, Durations()
    for step in range(count):
        if step == 2 * KEPT:
            tracemalloc.start()
        rising = float(step)
        durations.add(dict.fromkeys(PHASES, rising / len(PHASES)), data_wait_s=rising)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 4096
    middle, p90 = durations.step_quantiles()
    assert middle / count == pytest.approx(0.5, abs=0.03)
    assert p90 / count == pytest.approx(0.9, abs=0.015)
    assert durations.median("data") == pytest.approx(middle)
    assert durations.sum("data") == count * (count - 1) / 2 - 1


def test_equal_steps_give_equal_figures() -> None:
    """The choice of the steps is no other one in another process."""
    rows = steps(2 * KEPT)
    assert of(rows).step_quantiles() == of(rows).step_quantiles()
