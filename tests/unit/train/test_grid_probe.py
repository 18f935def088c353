"""What ``grid.mode: auto`` times on each grid, on one rank and with a clock that counts work."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hpc_bnn.bayes.members import Members
from hpc_bnn.config import Settings
from hpc_bnn.group import ALONE
from hpc_bnn.parallel.grid import Grid, fitting_grids
from hpc_bnn.parallel.world import World
from hpc_bnn.train.plan import auto_grid, few_passes
from hpc_bnn.train.plan.auto_grid import Candidate
from hpc_bnn.train.run.build import Parts, build, read_source
from hpc_bnn.train.run.optimizers import Adam
from hpc_bnn.train.step.draw import Draw
from hpc_bnn.train.step.one_pass import Pass
from hpc_bnn.train.step.passes import Passes

SAMPLES, BATCH = 8, 24
WORLD = World(Grid(1, 1, 0), torch.device("cpu"))
PASS = 1000.0  # what a pass costs beside its samples and examples


@dataclass
class Limited:
    """Examples of which only so many can be read at once."""

    examples: Any
    most: int = 10**9
    error: Exception = field(default_factory=lambda: MemoryError("Unable to allocate 1 GiB"))
    reads: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        self.reads.append(len(indices))
        if len(indices) > self.most:
            raise self.error
        x, y = self.examples.batch(indices)
        return x, y


@pytest.fixture(autouse=True)
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Time passes by what they do: exact numbers instead of seconds."""
    done = [0.0]
    run = Passes.run

    def counted(self: Passes, x: Tensor, draw: Draw, part: range) -> Pass:
        done[0] += PASS + len(x) * len(part)
        return run(self, x, draw, part)

    monkeypatch.setattr(Passes, "run", counted)
    monkeypatch.setattr(few_passes.time, "perf_counter", lambda: done[0])
    yield


def settings_of(
    per_pass: int, *, joint: bool = False, keep_graphs: bool = False, **posterior: Any
) -> Settings:
    content = {
        "posterior": {
            "samples": SAMPLES,
            "samples_per_pass": per_pass,
            "keep_graphs": keep_graphs,
            **posterior,
        },
        "loss": {"name": "crps"} if joint else {"name": "gaussian_nll"},
        "model": {"name": "mlp", "hidden": [4]},
        "data": {"name": "synthetic_series", "length": 200, "history": 6, "horizon": 2},
        "train": {"steps": 4, "batch_size": BATCH, "device": "cpu"},
    }
    return Settings.model_validate(content)


def parts_of(settings: Settings, **limits: Any) -> tuple[Parts, Limited]:
    source = read_source(settings, ALONE)
    examples = Limited(source.train, **limits)
    return build(settings, replace(source, train=examples)), examples


def measured(
    settings: Settings, ranks: int, *, skip: int = 0, world: World = WORLD, **limits: Any
) -> tuple[dict[int, Candidate], list[int]]:
    """Return the candidates by D, and how many examples were read at a time."""
    parts, examples = parts_of(settings, **limits)
    grids = fitting_grids(ranks, samples=SAMPLES, batch_size=BATCH)[skip:]
    found = auto_grid._measured(settings, world, parts, grids)
    assert [(c.sample_ranks, c.data_ranks) for c in found] == grids
    return {c.data_ranks: c for c in found}, examples.reads


@pytest.mark.parametrize("per_pass", [1, 2, 3, 4, 5, 8, 20])
def test_passes_are_those_of_the_run(per_pass: int) -> None:
    """Of min(K/S, samples_per_pass) samples, and a shorter one at the end where there is one."""
    settings = settings_of(per_pass)
    found, _ = measured(settings, 4)
    for data_ranks, candidate in found.items():
        own = SAMPLES // candidate.sample_ranks
        passes = math.ceil(own / per_pass)
        assert candidate.passes_s == passes * PASS + own * BATCH // data_ranks
        assert candidate.step_time_s == candidate.passes_s


def test_grids_of_equal_work_are_equal_whatever_shares_a_pass() -> None:
    found, _ = measured(settings_of(SAMPLES), 2)
    assert found[1].passes_s == found[2].passes_s


@pytest.mark.parametrize("keep_graphs", [False, True])
def test_joint_losses_run_passes_again_where_there_are_several(keep_graphs: bool) -> None:
    found, _ = measured(settings_of(4, joint=True, keep_graphs=keep_graphs), 2)
    once = PASS + 4 * BATCH
    assert found[1].passes_s == once  # one pass: backward goes through it
    one_of_two = PASS + 4 * BATCH // 2
    assert found[2].passes_s == 2 * one_of_two * (1 if keep_graphs else 2)


def test_no_more_is_read_than_some_grid_needs() -> None:
    _, reads = measured(settings_of(1), 4)
    assert reads == [BATCH]
    _, reads = measured(settings_of(1), 4, skip=0, most=BATCH)
    assert reads == [BATCH]
    grids = fitting_grids(3, samples=SAMPLES, batch_size=BATCH)
    assert grids == [(1, 3)]
    _, reads = measured(settings_of(1), 3)
    assert reads == [BATCH // 3]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 3.00 GiB for an array"),
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_batch_that_memory_cannot_hold_rules_its_grids_out(error: Exception) -> None:
    found, reads = measured(settings_of(2), 4, most=BATCH // 2, error=error)
    assert found[1].step_time_s == math.inf
    assert math.isfinite(found[2].step_time_s) and math.isfinite(found[4].step_time_s)
    assert reads == [BATCH, BATCH // 2]
    assert found[2].passes_s == 2 * PASS + 4 * BATCH // 2
    nothing, _ = measured(settings_of(2), 4, most=0, error=error)
    assert all(c.step_time_s == math.inf for c in nothing.values())


def test_a_batch_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no such variable"):
        measured(settings_of(1), 2, most=0, error=RuntimeError("no such variable"))


@pytest.mark.parametrize("joint", [False, True])
def test_a_pass_that_memory_cannot_hold_rules_its_grid_out(
    joint: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Passes.run

    def limited(self: Passes, x: Tensor, draw: Draw, part: range) -> Pass:
        if len(x) > BATCH // 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return run(self, x, draw, part)

    monkeypatch.setattr(Passes, "run", limited)
    found, _ = measured(settings_of(2, joint=joint), 2)
    assert found[1].step_time_s == math.inf
    assert math.isfinite(found[2].step_time_s)


METHODS: dict[str, dict[str, Any]] = {
    "ensemble": {},
    "sghmc": {"burn_in": 1},
    "swag": {"rank": 2, "start": 0, "collect_every": 1},
}


def note_rows(monkeypatch: pytest.MonkeyPatch, most: int = SAMPLES) -> list[int]:
    """Return how many rows are made each time, from now on; more than ``most`` have no memory."""
    made, make = [], Members._make_rows

    def noted(self: Members) -> None:
        made.append(len(self.own_samples))
        if made[-1] > most:
            raise MemoryError("Unable to allocate 3.00 GiB for an array")
        make(self)

    monkeypatch.setattr(Members, "_make_rows", noted)
    return made


@pytest.mark.parametrize("name", METHODS)
def test_a_rank_makes_the_rows_of_its_own_members_only(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each grid its own K / S, whatever another one needs; last those that are reduced."""
    chosen, made = settings_of(1, name=name, **METHODS[name]), note_rows(monkeypatch)
    spread = World(Grid(4, 1, 0), torch.device("cpu"))
    found, _ = measured(chosen, 4, world=spread)
    assert made == [2, 4, 8, 2]
    for data_ranks, candidate in found.items():
        own = SAMPLES // candidate.sample_ranks
        assert candidate.passes_s == own * (PASS + BATCH // data_ranks)
    made.clear()
    measured(chosen, 4, world=spread, skip=1)
    assert max(made) == SAMPLES // 2


@pytest.mark.parametrize("name", METHODS)
def test_members_that_memory_cannot_hold_rule_their_grid_out(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_rows(monkeypatch, most=SAMPLES // 2)
    chosen = settings_of(1, name=name, **METHODS[name])
    found, _ = measured(chosen, 4, world=World(Grid(4, 1, 0), torch.device("cpu")))
    assert found[4].step_time_s == math.inf
    assert math.isfinite(found[2].step_time_s) and math.isfinite(found[1].step_time_s)


def test_update_and_reduction_are_those_of_own_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock of elements: Adam's are those of K / S networks, on any grid."""
    chosen = settings_of(1, name="ensemble")
    parts, _ = parts_of(chosen)
    network = sum(p[0].numel() for p in parts.posterior.parameters() if p.requires_grad)
    step, tell = Adam.step, few_passes.time.perf_counter
    moved = [0]

    def counted(self: Adam) -> None:
        step(self)
        moved[0] += sum(p.numel() for group in self.param_groups for p in group["params"])

    monkeypatch.setattr(few_passes.time, "perf_counter", lambda: tell() + moved[0])
    monkeypatch.setattr(Adam, "step", counted)
    found, _ = measured(chosen, 4, world=World(Grid(4, 1, 0), torch.device("cpu")))
    for candidate in found.values():
        assert candidate.update_s == SAMPLES // candidate.sample_ranks * network
