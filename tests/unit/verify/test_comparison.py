"""Two runs, score by score: closed forms, what chance alone makes, and what does not pair."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hpc_bnn.verify.bootstrap import paired_difference
from hpc_bnn.verify.comparison import compare
from hpc_bnn.verify.start_scores import COLUMNS, EVENT_COLUMNS, StartScores

START, DAY_S = 1_577_836_800, 86_400  # 2020-01-01
RUNS = ("A", "B")


def scores(
    *,
    starts: int = 60,
    leads: tuple[float, ...] = (24.0, 72.0),
    names: tuple[str, ...] = ("z500", "t2m"),
    members: int = 10,
    seed: int = 0,
    first: int = 0,
    **values: Tensor,
) -> StartScores:
    """Scores of starts, of which those of persistence are a function of the start."""
    generator = torch.Generator().manual_seed(seed)
    shape = (starts, len(leads), len(names))
    held = {
        name: 1 + torch.rand(shape, generator=generator, dtype=torch.float64) for name in COLUMNS
    }
    days = torch.arange(first, first + starts)
    held["persistence_mse"] = (3 + days.double().sin())[:, None, None].expand(shape).contiguous()
    held |= {name: torch.zeros(*shape, 0, dtype=torch.float64) for name in EVENT_COLUMNS}
    return StartScores(
        starts=START + DAY_S * days,
        lead_hours=leads,
        names=names,
        units=tuple({"z500": "m2 s-2", "t2m": "K"}.get(name, "1") for name in names),
        levels=(),
        members=members,
        values={**held, **values},
    )


def changed(one: StartScores, **values: Tensor) -> StartScores:
    return replace(one, values={**one.values, **values})


def test_a_run_against_itself_differs_nowhere() -> None:
    one = scores()
    found = compare(one, one, RUNS)
    assert found.count("no difference") == len(found.cells) == 8
    assert found.notes == ()
    assert (found.starts, found.scores) == (60, ("rmse", "crps"))


def test_the_difference_of_the_rmse_and_its_interval() -> None:
    one, other = scores(seed=1), scores(seed=2)
    cell = compare(one, other, RUNS).at("rmse", "t2m")[1]
    pair = [held.values["mse"][:, 1, 1] for held in (one, other)]
    roots = [math.sqrt(float(mse.mean())) for mse in pair]
    assert (cell.first, cell.second) == pytest.approx(tuple(roots), rel=1e-15)
    assert cell.difference is not None
    assert cell.difference.mean == pytest.approx(roots[1] - roots[0], rel=1e-12)
    squares = paired_difference(pair[1], pair[0])
    assert cell.difference.high - cell.difference.low == pytest.approx(
        (squares.high - squares.low) / sum(roots), rel=1e-12
    )
    assert cell.difference.p_value == squares.p_value


def test_a_better_and_a_worse_place_are_found() -> None:
    """Where both runs have the same hard days, a small difference is seen."""
    one = scores()
    crps = one.values["crps"].clone()
    noise = 0.01 * torch.randn(60, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    crps[:, 0, 0] += noise - 0.02
    crps[:, 1, 1] += noise + 0.02
    found = compare(one, changed(one, crps=crps), RUNS)
    assert [cell.verdict for cell in found.at("crps", "z500")] == ["better", "no difference"]
    assert [cell.verdict for cell in found.at("crps", "t2m")] == ["no difference", "worse"]
    assert (found.count("better"), found.count("worse")) == (1, 1)


def test_chance_alone_makes_few_discoveries() -> None:
    """80 cells without a difference, 20 times: with p < 0.05 alone, about 80 would be named."""
    leads, alone, named = tuple(float(6 * i) for i in range(1, 21)), 0, 0
    for seed in range(20):
        one, other = (
            scores(leads=leads, seed=2 * seed + i, starts=80, names=("z500", "t2m")) for i in (0, 1)
        )
        found = compare(one, other, RUNS)
        values = [cell.difference.p_value for cell in found.cells if cell.difference is not None]
        alone += sum(p < 0.05 for p in values)
        named += found.count("better") + found.count("worse")
    assert 40 <= alone <= 130
    assert named <= 4


def test_only_what_both_have_is_paired() -> None:
    one = scores(starts=40, leads=(24.0, 48.0, 72.0), names=("z500", "t2m"))
    other = scores(starts=40, leads=(24.0, 72.0, 96.0), names=("t2m", "u10"), first=10)
    found = compare(one, other, RUNS)
    assert (found.starts, found.lead_hours, found.names) == (30, (24.0, 72.0), ("t2m",))
    cell = found.at("crps", "t2m")[1]
    assert cell.first == pytest.approx(float(one.values["crps"][10:, 2, 1].mean()), rel=1e-15)
    assert cell.second == pytest.approx(float(other.values["crps"][:30, 1, 0].mean()), rel=1e-15)
    assert found.notes == (
        "Paired on the 30 start times that both have, of 40 of A and 40 of B.",
        "Only A has the lead times [h] 48: left out.",
        "Only B has the lead times [h] 96: left out.",
        "Only A has the variables z500: left out.",
        "Only B has the variables u10: left out.",
    )


def test_another_number_of_members_is_compared_by_the_fair_crps() -> None:
    found = compare(scores(), scores(members=50), RUNS)
    assert found.scores == ("rmse", "fair_crps")
    assert found.notes[0].startswith("A has 10 members, B 50: the fair CRPS is compared")
    found = compare(scores(), scores(members=1), RUNS)
    assert found.scores == ("rmse", "crps")
    assert "the CRPS gains from members" in found.notes[0]


def test_another_truth_is_named() -> None:
    one = scores()
    other = changed(one, persistence_mse=one.values["persistence_mse"] * 1.02)
    (note,) = compare(one, other, RUNS).notes
    assert "scored against different truths" in note and "2 % (z500 at 24 h)" in note


def test_units_that_differ_are_left_out() -> None:
    other = replace(scores(), units=("m", "K"))
    found = compare(scores(), other, RUNS)
    assert found.names == ("t2m",)
    assert found.notes == ("In other units in each run, so left out: z500.",)


def test_few_starts_and_what_is_not_finite_say_nothing() -> None:
    found = compare(scores(starts=7), scores(starts=7, seed=1), RUNS)
    assert found.count("unknown") == 8
    assert found.notes == (
        "7 common start times say nothing about chance: at least 8 are needed (evaluation.starts).",
    )
    one = scores()
    crps = one.values["crps"].clone()
    crps[3, 0, 0] = torch.nan
    found = compare(one, changed(one, crps=crps), RUNS)
    assert found.at("crps", "z500")[0].verdict == "unknown"
    assert math.isnan(found.at("crps", "z500")[0].second)
    assert found.count("no difference") == 7


def test_uneven_starts_are_named() -> None:
    one = scores(starts=30)
    kept = torch.tensor([*range(12), *range(20, 30)])
    values = {name: held[kept] for name, held in one.values.items()}
    other = replace(one, starts=one.starts[kept], values=values)
    assert "24 to 216 h apart" in compare(one, other, RUNS).notes[1]


def test_nothing_in_common_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"A and B have no start time in common \(A: 60 from 2020"):
        compare(scores(), scores(first=100), RUNS)
    with pytest.raises(ValueError, match=r"no variable in common \(A: z500, t2m; B: u10\)"):
        compare(scores(), scores(names=("u10",)), RUNS)
    with pytest.raises(ValueError, match=r"no lead time in common \(A: 24, 72; B: 6\)"):
        compare(scores(), scores(leads=(6.0,)), RUNS)
