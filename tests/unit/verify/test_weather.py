"""Scores of field forecasts against scoringrules, numpy, cases by hand and known distributions."""

import json
import math
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import scoringrules
import torch
from torch import Tensor

from hpc_bnn.losses.cell_area import cell_area
from hpc_bnn.verify.calibration import coverage_of_ranks
from hpc_bnn.verify.channel_scores import ChannelScores
from hpc_bnn.verify.energy import energy_score
from hpc_bnn.verify.field_sums import FieldForecasts
from hpc_bnn.verify.start_scores import COLUMNS, EVENT_COLUMNS, StartScores
from hpc_bnn.verify.weather import WeatherTally

L, C, M, B, H, W = 2, 3, 5, 4, 8, 16
NAMES = ["z500", "t850", "q700"]
OFFSET = torch.tensor([5e4, 280.0, 5e-3], dtype=torch.float64)[:, None, None]
SIZE = torch.tensor([1e3, 10.0, 1e-3], dtype=torch.float64)[:, None, None]
TIGHT = {"rel": 1e-10, "abs": 1e-12}


def latitudes(rows: int = H) -> Tensor:
    return 90 - 180 / rows * (torch.arange(rows, dtype=torch.float64) + 0.5)


def forecast(seed: int = 0, members: int = M, starts: int = B) -> dict[str, Tensor]:
    """Make fields of three very different sizes; the climatology of one point is certain."""
    g = torch.Generator().manual_seed(seed)

    def field(*first: int) -> Tensor:
        noise = torch.randn(*first, C, H, W, generator=g, dtype=torch.float64)
        return OFFSET + SIZE * noise

    std = SIZE * (0.5 + torch.rand(C, H, W, generator=g, dtype=torch.float64))
    std[:, 2, 3] = 0
    return {
        "members": field(members, starts),
        "truth": field(starts),
        "persistence": field(starts),
        "climatology": field(starts),
        "climatology_std": std,
        "uniforms": torch.rand(starts, C, H, W, generator=g, dtype=torch.float64),
    }


def empty(members: int = M, leads: int = L, starts: int = B, mask: bool = False) -> WeatherTally:
    return WeatherTally(
        starts=starts,
        leads=leads,
        channels=C,
        members=members,
        area=cell_area(latitudes()),
        present=present() if mask else None,
    )


def band(data: dict[str, Tensor], channel: int, rows: slice) -> FieldForecasts:
    cut = {name: x[..., channel, rows, :] for name, x in data.items()}
    return FieldForecasts(**cut)


def add(
    tally: WeatherTally,
    lead: int,
    data: dict[str, Tensor],
    places: list[int] | None = None,
    heights: tuple[int, ...] = (H,),
) -> WeatherTally:
    """Add all channels, in bands of these heights."""
    edges = np.cumsum([0, *heights]).tolist()
    rows = [slice(a, b) for a, b in pairwise(edges)]
    for channel in range(C):
        bands = [(each, band(data, channel, each)) for each in rows]
        tally.add(lead, channel, list(range(B)) if places is None else places, bands)
    return tally


def of_starts(tally: WeatherTally) -> StartScores:
    starts, leads = tally.sums["rows"].shape[:2]
    hours = [24.0 * (lead + 1) for lead in range(leads)]
    return tally.of_starts(torch.arange(starts), hours, NAMES, ["1"] * C)


def result(tally: WeatherTally) -> dict[str, ChannelScores]:
    return tally.result(of_starts(tally))


def scored(data: dict[str, Tensor]) -> dict[str, ChannelScores]:
    return result(add(empty(len(data["members"]), 1), 0, data))


def part(data: dict[str, Tensor], starts: slice) -> dict[str, Tensor]:
    cut = {n: x[:, starts] if n == "members" else x[starts] for n, x in data.items()}
    return cut | {"climatology_std": data["climatology_std"]}


def assert_close(a: Any, b: Any, rel: float = 1e-10) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            assert_close(a[name], b[name], rel)
    else:
        np.testing.assert_allclose(np.array(a, float), np.array(b, float), rtol=rel, atol=1e-12)


def mean_of(points: Any) -> float:
    """Average points (B, H, W) with weights written down by hand."""
    edges = np.sin(np.deg2rad(np.linspace(90, -90, H + 1)))
    area = (edges[:-1] - edges[1:]) * H / 2
    return float((np.asarray(points) * area[:, None]).mean())


def test_acc_by_hand() -> None:
    """Two points on the equator: anomalies (1, 1) against (1, 0) and against (-2, -2)."""
    tally = WeatherTally(starts=1, leads=1, channels=1, members=1, area=torch.ones(1))
    zero = torch.zeros(1, 1, 2)
    truth = torch.tensor([1.0, 1.0]).reshape(1, 1, 2) + 10
    forecasts = FieldForecasts(
        members=torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2) + 10,
        truth=truth,
        persistence=torch.full_like(truth, 8),
        climatology=zero + 10,
        climatology_std=torch.zeros(1, 2),
        uniforms=zero,
    )
    tally.add(0, 0, [0], [(slice(0, 1), forecasts)])
    got = tally.result(tally.of_starts(torch.arange(1), [24.0], ["a"], ["K"]))["a"]
    assert got["acc"] == pytest.approx([1 / math.sqrt(2)], **TIGHT)
    assert got["persistence"]["acc"] == pytest.approx([-1], **TIGHT)
    for name in ("persistence", "climatology"):
        assert got["skill"][name].keys() == {"rmse", "crps"}
        for key, value in got["skill"][name].items():
            assert value == pytest.approx([1 - got[key][0] / got[name][key][0]], **TIGHT)
    assert got["rmse"] == pytest.approx([math.sqrt(0.5)], **TIGHT)
    assert got["persistence"]["crps"] == pytest.approx([3], **TIGHT)
    assert got["climatology"] == {"rmse": [1.0], "crps": [1.0]}


@pytest.mark.parametrize("bins", [2, 3, 6, 17, 101])
def test_flat_ranks_are_covered_exactly(bins: int) -> None:
    for level in (0.5, 0.9):
        assert float(coverage_of_ranks(torch.full((bins,), 7.0), level)) == pytest.approx(level)


def test_coverage_of_ranks_by_hand() -> None:
    """Four bins: [0.25, 0.75] is the two middle ones; 0.9 cuts 1/5 off the outer ones."""
    counts = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    assert coverage_of_ranks(counts, 0.5).tolist() == pytest.approx([0.5, math.nan], nan_ok=True)
    assert float(coverage_of_ranks(counts, 0.9)[0]) == pytest.approx((0.8 + 2 + 3 + 3.2) / 10)


def test_one_member() -> None:
    data = forecast(members=1)
    got = scored(data)["z500"]
    error = (data["members"][0] - data["truth"])[:, 0].numpy()
    assert got["crps"] == pytest.approx([mean_of(abs(error))], **TIGHT)
    undefined = {"fair_crps", "spread", "spread_skill_ratio", "coverage_50", "coverage_90"}
    undefined |= {"fair_energy_score"}
    assert set(got) == set(scored(forecast(members=2))["z500"]) - undefined
    assert len(got["rank_histogram"][0]) == 2


def test_order_of_members_and_rows_does_not_matter() -> None:
    data = forecast()
    usual = scored(data)
    assert_close(scored(data | {"members": data["members"].flip(0)}), usual)
    assert_close(scored({name: x.flip(-2) for name, x in data.items()}), usual)


def test_parts_add_up_to_the_whole() -> None:
    """As two ranks would: each its own start times, one sum; lead times stay apart."""
    first, second = forecast(1), forecast(2)
    whole = add(add(empty(), 0, first), 1, second)
    ranks = [empty(), empty()]
    for rank, starts in zip(ranks, (slice(0, 1), slice(1, B)), strict=True):
        places = list(range(B))[starts]
        add(add(rank, 0, part(first, starts), places), 1, part(second, starts), places)
    for name, held in ranks[0].sums.items():
        held += ranks[1].sums[name]
    assert_close(result(ranks[0]), result(whole))
    for name, values in of_starts(whole).values.items():
        assert_close(of_starts(ranks[0]).values[name], values)
    assert_close(result(whole)["t850"]["rmse"][1], scored(second)["t850"]["rmse"][0])


@pytest.mark.parametrize("heights", [(3, 5), (1,) * H, (7, 1)])
@pytest.mark.parametrize("mask", [False, True])
def test_bands_add_up_to_the_field(heights: tuple[int, ...], mask: bool) -> None:
    whole = add(empty(leads=1, mask=mask), 0, forecast())
    assert_close(
        result(add(empty(leads=1, mask=mask), 0, forecast(), heights=heights)), result(whole), 1e-12
    )


def test_each_start_by_itself() -> None:
    """Of a start: its scores are those of an evaluation of it alone; all of them give the whole."""
    data = forecast()
    whole = of_starts(add(empty(leads=1), 0, data))
    for b in range(B):
        one = of_starts(add(empty(leads=1, starts=1), 0, part(data, slice(b, b + 1)), [0]))
        for name in (*COLUMNS, *EVENT_COLUMNS):
            assert_close(one.values[name][0], whole.values[name][b], 1e-12)
    got = result(add(empty(leads=1), 0, data))["t850"]
    assert got["rmse"] == pytest.approx(
        [float(whole.values["mse"][:, 0, 1].mean().sqrt())], **TIGHT
    )
    spread = float(whole.values["variance"][:, 0, 1].mean().sqrt())
    assert got["spread"] == pytest.approx([spread], **TIGHT)


@pytest.mark.parametrize("mask", [False, True])
def test_energy_score_and_events_against_scoringrules(mask: bool) -> None:
    data, channel = forecast(), 0
    tally = add(empty(leads=1, mask=mask), 0, data)
    got, each = result(tally)["z500"], of_starts(tally).values
    there = (present()[channel] if mask else torch.ones(H, W, dtype=torch.bool)).numpy()
    edges = np.sin(np.deg2rad(np.linspace(90, -90, H + 1)))
    area = np.broadcast_to((edges[:-1] - edges[1:])[:, None], (H, W))[there]
    share = area / area.sum()
    x = data["members"][:, :, channel].numpy()[..., there]
    o, c = (data[n][:, channel].numpy()[..., there] for n in ("truth", "climatology"))
    std = data["climatology_std"][channel].numpy()[there]
    for name, estimator in (("energy_score", "nrg"), ("fair_energy_score", "fair")):
        root = np.sqrt(share)
        oracle = scoringrules.es_ensemble(o * root, x * root, 0, estimator=estimator)
        np.testing.assert_allclose(each[name][:, 0, channel], oracle, rtol=1e-11)
        assert got[name] == pytest.approx([oracle.mean()], **TIGHT)  # type: ignore[literal-required]
    weights = torch.from_numpy(share)
    own = energy_score(torch.from_numpy(x), torch.from_numpy(o), weights=weights)
    assert_close(each["energy_score"][:, 0, channel], own)
    assert_close(each["mae"][:, 0, channel], (abs(x.mean(0) - o) * share).sum(-1))
    assert list(got["events"]) == ["0.1", "0.9"]
    for q, level in enumerate((0.1, 0.9)):
        threshold = c + NormalDist().inv_cdf(level) * std
        event, probability = (o > threshold).astype(float), (x > threshold).mean(0)
        oracle = (scoringrules.brier_score(event, probability) * share).sum(-1)
        np.testing.assert_allclose(each["brier"][:, 0, channel, q], oracle, rtol=1e-11)
        naive = (scoringrules.brier_score(event, np.full_like(event, 1 - level)) * share).sum(-1)
        np.testing.assert_allclose(each["climatology_brier"][:, 0, channel, q], naive, rtol=1e-11)
        events = got["events"][f"{level:g}"]
        assert events["brier"] == pytest.approx([oracle.mean()], **TIGHT)
        assert events["skill"] == pytest.approx([1 - oracle.mean() / naive.mean()], **TIGHT)
        (sharp,), (told,), (chance,) = (
            events["reliability"], events["resolution"], events["uncertainty"],
        )  # fmt: skip
        assert sharp - told + chance == pytest.approx(oracle.mean(), rel=1e-10)
        counts = np.array(events["counts"][0])
        number = len(share) * share  # of mean 1
        for k in range(M + 1):
            forecast_k = np.isclose(probability, k / M)
            assert counts[k, 0] == pytest.approx(float((number * forecast_k).sum()), abs=1e-9)
            assert counts[k, 1] == pytest.approx(
                float((number * forecast_k * event).sum()), abs=1e-9
            )


def test_a_calibrated_ensemble_is_reliable_and_the_climatology_has_its_own_brier_score() -> None:
    """Members and truth of the climatological distribution: o_k is the level at every k, the Brier
    score of the climatology is q (1 - q), that of M members 1 / M of it more.
    """
    generator = torch.Generator().manual_seed(3)
    draws = torch.randn(M + 1, 1, 1, 60_000, generator=generator, dtype=torch.float64)
    zero = torch.zeros(1, 1, 60_000)
    tally = WeatherTally(starts=1, leads=1, channels=1, members=M, area=torch.ones(1))
    forecasts = FieldForecasts(draws[1:], draws[0], zero, zero, zero[0] + 1, zero)
    tally.add(0, 0, [0], [(slice(0, 1), forecasts)])
    got = tally.result(tally.of_starts(torch.arange(1), [24.0], ["a"], ["K"]))["a"]["events"]
    for level, of in ((0.1, got["0.1"]), (0.9, got["0.9"])):
        variance = level * (1 - level)
        assert of["climatology"] == pytest.approx([variance], rel=0.03)
        assert of["brier"] == pytest.approx([variance * (1 + 1 / M)], rel=0.03)
        assert of["resolution"] == pytest.approx([0], abs=1e-3)
        assert of["uncertainty"] == pytest.approx([variance], rel=0.03)


def test_float32_fields_score_as_float64() -> None:
    data = forecast()
    single = {name: x.float() for name, x in data.items()}
    assert_close(scored(single), scored({n: x.double() for n, x in single.items()}), rel=0)


def test_ties_are_broken_by_the_uniforms() -> None:
    data = forecast()
    tied = data | {"members": data["truth"].expand(M, -1, -1, -1, -1)}
    low = scored(tied | {"uniforms": torch.zeros(B, C, H, W)})["z500"]["rank_histogram"][0]
    assert low == pytest.approx([B * H * W] + [0] * M)
    high = scored(tied | {"uniforms": torch.full((B, C, H, W), 0.999)})["z500"]
    assert high["rank_histogram"][0] == pytest.approx([0] * M + [B * H * W])


def test_starts_that_are_missing_or_counted_twice_are_refused() -> None:
    tally = add(empty(), 0, forecast())
    with pytest.raises(ValueError, match=r"channel \[0, 1, 0\] were added 0 times"):
        of_starts(tally)
    twice = add(add(empty(leads=1), 0, forecast()), 0, forecast())
    with pytest.raises(ValueError, match=r"channel \[0, 0, 0\] were added 2 times"):
        of_starts(twice)


def test_json_holds_what_there_is() -> None:
    got = scored(forecast())["q700"]
    assert json.loads(json.dumps(got)) == got


def test_a_nan_spoils_its_start_lead_time_and_channel_only() -> None:
    data = forecast()
    data["members"][2, 1, 0, 0, 0] = math.nan
    tally = add(add(empty(), 0, data), 1, forecast(2))
    got, each = result(tally), of_starts(tally).values
    assert all(math.isnan(got["z500"][n][0]) for n in ("rmse", "crps", "coverage_50"))  # type: ignore[literal-required]
    assert math.isnan(got["z500"]["events"]["0.9"]["brier"][0])
    assert math.isnan(got["z500"]["energy_score"][0])
    assert math.isfinite(got["z500"]["rmse"][1])
    assert math.isfinite(got["z500"]["persistence"]["rmse"][0])
    assert math.isfinite(got["t850"]["coverage_90"][0])
    for name in ("mse", "crps", "energy_score", "acc"):
        assert each[name][:, 0, 0].isnan().tolist() == [False, True, False, False]
    assert each["brier"][:, 0, 0, 0].isnan().tolist() == [False, True, False, False]


def test_bad_input() -> None:
    data = forecast()
    with pytest.raises(ValueError, match=r"lead = 2: expected 0 to 1"):
        add(empty(), 2, data)
    with pytest.raises(ValueError, match=r"starts = 4: expected 0 to 3"):
        add(empty(), 0, data, [0, 1, 2, 4])
    with pytest.raises(ValueError, match=r"persistence \(3, 8, 16\).*expected \(5, 4, h, W\)"):
        add(empty(), 0, data | {"persistence": data["persistence"][:3]})
    with pytest.raises(ValueError, match=r"members \(4, 4, 8, 16\).*expected \(5, 4"):
        add(empty(), 0, data | {"members": data["members"][:4]})
    with pytest.raises(ValueError, match=r"climatology_std \(4, 8, 16\)"):
        add(empty(), 0, data | {"climatology_std": data["climatology"]})
    with pytest.raises(ValueError, match=r"standard deviations >= 0"):
        add(empty(), 0, data | {"climatology_std": -data["climatology_std"]})
    with pytest.raises(ValueError, match=r"rows up to 5: expected bands of all 8 rows"):
        add(empty(), 0, data, heights=(2, 3))
    with pytest.raises(ValueError, match=r"rows 3 to 8 of 5 behind 0"):
        empty().add(0, 0, list(range(B)), [(slice(3, 8), band(data, 0, slice(3, 8)))])
    with pytest.raises(ValueError, match=r"names \['a'\]: expected 3 different"):
        empty().of_starts(torch.arange(B), [24.0], ["a"], ["K"])
    with pytest.raises(ValueError, match=r"of mean 2: expected \(H,\) of mean 1"):
        WeatherTally(starts=1, leads=1, channels=1, members=1, area=torch.full((3,), 2.0))
    with pytest.raises(ValueError, match=r"members = 0: expected at least 1"):
        empty(members=0)


def present() -> Tensor:
    """Points that have values: of the first channel not all."""
    made = torch.ones(C, H, W, dtype=torch.bool)
    made[0, :, 5:] = made[0, 2, :3] = False
    return made


def masked(data: dict[str, Tensor]) -> WeatherTally:
    return add(empty(leads=1, mask=True), 0, data)


@pytest.mark.parametrize(("channel", "mask"), [(0, True), (0, False), (1, False), (2, False)])
def test_against_scoringrules_and_numpy(channel: int, mask: bool) -> None:
    """On all points, and on those that have values; with weights written down by hand."""
    data = forecast()
    got = (result(masked(data)) if mask else scored(data))[NAMES[channel]]
    there = (present()[channel] if mask else torch.ones(H, W, dtype=torch.bool)).numpy()
    edges = np.sin(np.deg2rad(np.linspace(90, -90, H + 1)))
    area = np.broadcast_to((edges[:-1] - edges[1:])[:, None], (H, W))[there]
    area = area / area.mean()
    x = data["members"][:, :, channel].numpy()[..., there]
    o, p, c = (
        data[n][:, channel].numpy()[..., there] for n in ("truth", "persistence", "climatology")
    )
    std, f = data["climatology_std"][channel].numpy()[there], x.mean(0)

    def mean(points: Any) -> float:
        return float((points * area).mean())

    def acc(forecast: Any) -> float:
        a, b = forecast - c, o - c
        each = [mean(a[i] * b[i]) / math.sqrt(mean(a[i] ** 2) * mean(b[i] ** 2)) for i in range(B)]
        return sum(each) / B

    crps = scoringrules.crps_ensemble(o, x, m_axis=0, estimator="nrg")
    fair = scoringrules.crps_ensemble(o, x, m_axis=0, estimator="fair")
    assert got["starts"] == [B]
    assert got["rmse"] == pytest.approx([math.sqrt(mean((f - o) ** 2))], **TIGHT)
    assert got["crps"] == pytest.approx([mean(crps)], **TIGHT)
    assert got["fair_crps"] == pytest.approx([mean(fair)], **TIGHT)
    spread = math.sqrt(mean(x.var(0, ddof=1)))
    assert got["spread"] == pytest.approx([spread], **TIGHT)
    ratio = math.sqrt((M + 1) / M) * spread / got["rmse"][0]
    assert got["spread_skill_ratio"] == pytest.approx([ratio], **TIGHT)
    assert got["acc"] == pytest.approx([acc(f)], **TIGHT)
    assert got["persistence"]["acc"] == pytest.approx([acc(p)], **TIGHT)
    assert got["persistence"]["rmse"] == pytest.approx([math.sqrt(mean((p - o) ** 2))], **TIGHT)
    assert got["persistence"]["crps"] == pytest.approx([mean(abs(p - o))], **TIGHT)
    assert got["climatology"]["rmse"] == pytest.approx([math.sqrt(mean((c - o) ** 2))], **TIGHT)
    normal = scoringrules.crps_normal(o, c, np.where(std == 0, 1, std))
    normal = np.where(std == 0, abs(o - c), normal)
    assert got["climatology"]["crps"] == pytest.approx([mean(normal)], **TIGHT)
    ranks = (x < o).sum(0)
    counts = [float(((ranks == r) * area).sum()) for r in range(M + 1)]
    np.testing.assert_allclose(got["rank_histogram"][0], counts, rtol=1e-10)
    assert sum(counts) == pytest.approx(B * there.sum())


def test_channels_without_missing_points_keep_their_bits() -> None:
    data = forecast()
    plain, some = add(empty(leads=1), 0, data).sums, masked(data).sums
    for name, held in plain.items():
        at = 2 if name == "rows" else 1
        cut, same = some[name].movedim(at, 0), held.movedim(at, 0)
        assert torch.equal(cut[1:], same[1:])
        assert not torch.equal(cut[0], same[0])


def test_what_stands_at_points_without_values_changes_nothing() -> None:
    clean = masked(forecast()).sums
    data = forecast()
    for name, x in data.items():
        if name != "uniforms":
            x[..., 0, :, :][..., ~present()[0]] = 0.0 if name == "climatology_std" else math.nan
    for name, held in masked(data).sums.items():
        assert torch.equal(held, clean[name])


def test_a_mask_of_another_shape_is_refused() -> None:
    for wrong in (present()[:2], torch.zeros(C, H, W, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"WeatherTally: present"):
            WeatherTally(
                starts=1,
                leads=1,
                channels=C,
                members=M,
                area=cell_area(latitudes()),
                present=wrong,
            )
