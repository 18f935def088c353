"""How long a step will take: measured on few examples, told in words."""

import time
from dataclasses import replace

import pytest
import torch

from hpc_bnn.config import CONFIGS, Settings, load_settings
from hpc_bnn.data.source import InMemory
from hpc_bnn.group import ALONE
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.plan import step_time as plan
from hpc_bnn.train.plan.step_time import StepTime, step_time, told_time
from hpc_bnn.train.run.build import build, read_source, step_settings
from hpc_bnn.train.step.step import Step

CPU, ONE = torch.device("cpu"), Grid(1, 1, 0)


def settings_of(*overrides: str) -> Settings:
    common = ["train.device=cpu", "train.batch_size=32", "posterior.samples=4"]
    return load_settings(CONFIGS / "mlp_series.yaml", [*common, *overrides])


def test_a_step_takes_what_was_told() -> None:
    """Other work of the machine only ever adds: the least of some steps counts."""
    settings = settings_of()
    source = read_source(settings, ALONE)
    found = step_time(settings, source, ONE, CPU)
    parts, times = build(settings, source), []
    chosen = replace(step_settings(settings, parts), check=False, guard_every=0)
    step = Step(parts.posterior, parts.loss, parts.optimizer(1e-3), World(ONE, CPU), chosen)
    for _ in range(10):
        began = time.perf_counter()
        step(*source.train.batch(torch.arange(32)))
        times.append(time.perf_counter() - began)
    assert found is not None and found.examples == 32
    assert found.step_s == pytest.approx(min(times), rel=0.7)


def test_one_example_stands_for_all_where_they_would_take_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings_of()
    source = read_source(settings, ALONE)
    monkeypatch.setattr(plan, "BUDGET_S", 0.0)
    monkeypatch.setattr(plan, "_timed", lambda *words, examples: StepTime(2.0, 0.5, 3.0, examples))
    expected = StepTime(64.0, 16.0, 3.0, 1)
    assert step_time(settings, source, ONE, CPU) == expected
    assert expected.step_s == 83.0
    monkeypatch.setattr(plan, "BUDGET_S", 1e9)
    assert step_time(settings, source, ONE, CPU) == StepTime(2.0, 0.5, 3.0, 32)
    one = InMemory(*source.train.batch(torch.tensor([0])))  # shapes without files
    assert step_time(settings, replace(source, train=one), ONE, CPU) == expected


def test_a_rank_of_a_larger_grid_has_less_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def timed(
        settings: Settings, source: object, grid: Grid, *_: object, examples: int
    ) -> StepTime:
        asked.append((len(grid.own_samples(settings.posterior.samples)), examples))
        return StepTime(0.0, 0.0, 0.0, examples)

    settings = settings_of()
    monkeypatch.setattr(plan, "_timed", timed)
    step_time(settings, read_source(settings, ALONE), Grid(2, 4, 0), CPU)
    assert asked == [(2, 1), (2, 8)]


def test_hours_of_an_epoch_and_of_the_run() -> None:
    found, settings = StepTime(90.0, 0.5, 9.5, 32), settings_of("train.steps=720")
    head, *lines = told_time(found, settings, ONE, CPU, num_examples=1170)
    assert head.startswith("time, measured here (")
    assert f"{torch.get_num_threads()} thread(s)):" in head
    assert [" ".join(line.split()) for line in lines] == [
        "a step 100 s",
        "of it passes, loss, KL and update 90 s, 0.5 s, 9.5 s",
        "an epoch of 36 steps 1 h",
        "the run of 720 steps 20 h, without validations and checkpoints",
    ]
    few = replace(found, examples=1)
    head, step, _, run = told_time(few, settings, Grid(2, 2, 0), CPU, num_examples=1)
    assert "1 example timed for 16):" in head
    assert "exchanges with other ranks come on top" in step
    assert "the run of 720 steps" in run, "nobody knows how long an epoch is"
