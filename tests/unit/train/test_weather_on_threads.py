"""Scores of weather forecasts: those of all starts at once, on any number of ranks.

Tolerance: 1e-11 relative in float64; only the order of sums differs.
"""

from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
import torch
from thread_group import on_ranks, outcomes
from torch import Tensor
from toy_weather import (
    ALONE_WORLD,
    STEP_HOURS,
    data_world,
    forecast_by_hand,
    toy_source,
    toy_trained,
    write_small_toy,
)

from hpc_bnn.bayes.noise import Purpose, Stream, uniforms
from hpc_bnn.data import Source
from hpc_bnn.data.source import FieldRecord
from hpc_bnn.group import Group, RankError
from hpc_bnn.losses.cell_area import cell_area
from hpc_bnn.train.score import bands
from hpc_bnn.train.score.climatology_fit import fit_climatology, spread_evenly
from hpc_bnn.train.score.rollout import Rollout
from hpc_bnn.train.score.trained import Trained
from hpc_bnn.train.score.weather import WeatherScores, _starts, score_weather
from hpc_bnn.verify.climatology import HarmonicSums
from hpc_bnn.verify.field_sums import FieldForecasts
from hpc_bnn.verify.spectrum import Spectra, ensemble_spectra
from hpc_bnn.verify.weather import WeatherTally

STEP_S = STEP_HOURS * 3600
GAUSSIAN = {"name": "gaussian", "scale": 0.2, "unit": "state"}
PREDICTED = {"name": "gaussian_nll", "variance": "predicted"}
ONE_AT_A_TIME = Lock()  # initial weights come from torch's generator, which threads share


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def source(folder: Path) -> Source:
    return toy_source(folder)


def scored_on(size: int, folder: Path, **changes: dict[str, Any]) -> list[WeatherScores]:
    def work(all_ranks: Group) -> WeatherScores:
        source = toy_source(folder, all_ranks, **changes)
        with ONE_AT_A_TIME:
            trained = toy_trained(folder, source, **changes)
        return score_weather(trained, data_world(all_ranks))

    return on_ranks(size, work)


def by_hand(trained: Trained, starts: Tensor, steps: int) -> tuple[WeatherTally, Tensor]:
    """Return the tally of all starts and the members (M, L, B, C, H, W), with ``predict``."""
    fields, count = trained.parts.source.fields, trained.settings.posterior.predict_samples
    assert fields is not None
    times = fields.record.times

    def states(seconds: Tensor) -> Tensor:
        return fields.record.states(torch.searchsorted(times, seconds)).double()

    sums = HarmonicSums(0, 1, tuple(trained.parts.source.output_shape))  # type: ignore[arg-type]
    sums.add(fields.train_times, states(fields.train_times))
    climatology = sums.solve()
    members = forecast_by_hand(trained, starts, steps, members=count)
    channels = len(fields.names)
    tally = WeatherTally(
        starts=len(starts),
        leads=steps,
        channels=channels,
        members=count,
        area=cell_area(fields.latitude),
    )
    std = climatology.std * fields.state_std[:, None, None]
    for lead in range(steps):
        valid = starts + (lead + 1) * STEP_S
        truth = fields.physical(states(valid))
        expected = climatology.mean(valid)
        expected = torch.where(climatology.std == 0, expected.float().double(), expected)
        ties = [uniforms(Stream(0, Purpose.OBSERVATION, t // 3600), truth.shape[1:])
                for t in valid.tolist()]  # fmt: skip
        whole = (
            members[:, lead],
            truth,
            fields.physical(states(starts)),
            fields.physical(expected),
            std,
            torch.stack(ties),
        )
        for channel in range(channels):
            forecasts = FieldForecasts(*(x[..., channel, :, :] for x in whole))
            band = (slice(0, len(fields.latitude)), forecasts)
            tally.add(lead, channel, list(range(len(starts))), [band])
    return tally, members


def scored_states(source: Source, seconds: Tensor) -> Tensor:
    """Return the states (B, C, H, W) at some times, physical."""
    fields = source.fields
    assert fields is not None
    return fields.physical(
        fields.record.states(torch.searchsorted(fields.record.times, seconds)).double()
    )


def assert_same(one: WeatherScores, other: WeatherScores, *, rtol: float = 1e-11) -> None:
    """Compare the scores of all starts, and of each."""
    assert torch.equal(one.starts, other.starts)
    assert one.lead_hours == other.lead_hours
    for name, values in one.of_starts.values.items():
        torch.testing.assert_close(
            values, other.of_starts.values[name], rtol=rtol, atol=rtol, equal_nan=True
        )
    for power, others in zip(one.spectra, other.spectra, strict=True):
        largest = float(power.max())  # float32 states leave round-off at all wavenumbers
        torch.testing.assert_close(power, others, rtol=rtol, atol=rtol * largest)
    for channel, scores in one.by_channel.items():
        for name, held in flat(scores).items():
            torch.testing.assert_close(
                torch.tensor(held, dtype=torch.float64),
                torch.tensor(flat(other.by_channel[channel])[name], dtype=torch.float64),
                rtol=rtol,
                atol=rtol,
                equal_nan=True,
            )


def flat(scores: Any, name: str = "") -> dict[str, list[float]]:
    """Return lists by the names that lead to them."""
    if not isinstance(scores, dict):
        return {name: scores}
    parts = [flat(held, f"{name}.{key}") for key, held in scores.items()]
    return {key: held for part in parts for key, held in part.items()}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": PREDICTED, "data": {"history": 2}},
        {"forecast": {"redraw": "each_step"}},
        {"perturb": GAUSSIAN, "data": {"history": 2}},
        {"perturb": {**GAUSSIAN, "redraw": "each_step"}, "data": {"history": 2}},
    ],
    ids=[
        "members",
        "observation noise and history",
        "drawn anew",
        "perturbed starts",
        "perturbed steps",
    ],
)
def test_they_equal_a_computation_on_all_starts_at_once(
    folder: Path, changes: dict[str, Any]
) -> None:
    source = toy_source(folder, **changes)
    trained = toy_trained(folder, source, **changes)
    scored = score_weather(trained, ALONE_WORLD)
    assert source.fields is not None
    assert scored.lead_hours == (12, 24, 36)
    assert len(scored.starts) == 5
    expected, members = by_hand(trained, scored.starts, 3)
    names, units = source.fields.names, [c.units for c in source.fields.channels]
    of_starts = expected.of_starts(scored.starts, scored.lead_hours, names, units)
    truth = [scored_states(source, scored.starts + (lead + 1) * STEP_S) for lead in range(3)]
    area = cell_area(source.fields.latitude)
    each = [ensemble_spectra(members[:, lead], truth[lead], area) for lead in range(3)]
    spectra = Spectra(*(torch.stack(power).mean(1) for power in zip(*each, strict=True)))
    by_channel = expected.result(of_starts)
    assert_same(scored, WeatherScores(by_channel, of_starts, spectra, ()), rtol=1e-9)
    assert [picture.lead for picture in scored.pictures] == [0, 1, 2]
    for picture in scored.pictures:
        at = scored.starts.tolist().index(picture.start_s)
        assert at == 2
        those = members[:, picture.lead, at]
        torch.testing.assert_close(picture.mean, those.mean(0).float())
        torch.testing.assert_close(picture.spread, those.std(0).float(), rtol=1e-5, atol=1e-4)
    split = source.fields.test_times
    assert bool(((scored.starts >= split[0]) & (scored.starts + 2 * STEP_S <= split[-1])).all())


@pytest.mark.parametrize(("size", "starts"), [(2, 5), (3, 5), (4, 5), (4, 3), (3, 1)])
def test_any_number_of_ranks_gives_the_same(
    folder: Path, source: Source, size: int, starts: int
) -> None:
    """Also where ranks have no start at all."""
    changes: dict[str, Any] = {"loss": PREDICTED, "evaluation": {"starts": starts, "steps": 3}}
    alone = score_weather(toy_trained(folder, source, **changes), ALONE_WORLD)
    for rank, scored in enumerate(scored_on(size, folder, **changes)):
        assert_same(scored, alone)
        assert len(scored.pictures) == (len(alone.pictures) if rank == 0 else 0)
        for one, other in zip(scored.pictures, alone.pictures, strict=False):
            assert (one.start_s, one.lead) == (other.start_s, other.lead)
            for field in ("mean", "spread", "truth"):
                torch.testing.assert_close(getattr(one, field), getattr(other, field))


def test_the_size_of_batches_does_not_matter(folder: Path, source: Source) -> None:
    one, five = (
        score_weather(
            toy_trained(folder, source, train={"batch_size": size}, loss=PREDICTED), ALONE_WORLD
        )
        for size in (1, 5)
    )
    assert_same(one, five)


@pytest.mark.parametrize("rows", [1, 3])
def test_the_size_of_bands_does_not_matter(
    folder: Path, source: Source, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = toy_trained(folder, source, loss=PREDICTED)
    whole = score_weather(trained, ALONE_WORLD)
    monkeypatch.setattr(bands, "rows_at_once", lambda *_: rows)
    assert_same(score_weather(trained, ALONE_WORLD), whole, rtol=1e-12)


def test_more_steps_than_the_split_has(folder: Path, source: Source) -> None:
    trained = toy_trained(folder, source, evaluation={"steps": 24})
    with pytest.raises(ValueError, match=r"evaluation\.steps = 24: .* holds 23 steps"):
        score_weather(trained, ALONE_WORLD)


class Failing:
    """A record whose disk fails at one time."""

    def __init__(self, record: FieldRecord, broken_s: int) -> None:
        self.times, self._record, self._broken_s = record.times, record, broken_s

    def states(self, indices: Tensor) -> Tensor:
        if bool((self.times[indices] == self._broken_s).any()):
            raise OSError("the disk fails")
        return self._record.states(indices)

    def forcing(self, seconds: Tensor) -> Tensor:
        return self._record.forcing(seconds)


@pytest.mark.parametrize("where", ["climatology", "forecasts"])
def test_a_rank_that_cannot_read_ends_every_rank(folder: Path, source: Source, where: str) -> None:
    """Nobody may wait for the rank that failed: the last one, which has the last times."""
    assert source.fields is not None
    last = int(source.fields.train_times[-1])
    if where == "forecasts":
        last = int(_starts(source.fields.test_times, STEP_S, 1, 5)[0][-1]) + STEP_S
    broken = replace(source.fields, record=Failing(source.fields.record, last))

    def work(all_ranks: Group) -> WeatherScores:
        with ONE_AT_A_TIME:
            changed = replace(source, fields=broken)
            trained = toy_trained(folder, changed, evaluation={"steps": 1})
        return score_weather(trained, data_world(all_ranks))

    ended = outcomes(3, work)
    assert isinstance(ended[2], OSError)
    for error in ended[:2]:
        assert isinstance(error, RankError)
        assert f"{where}: rank 2 failed: OSError: the disk fails" in str(error)


def test_times_that_no_split_uses_need_not_be_complete(folder: Path) -> None:
    """Such as the first time of one file, before another file begins."""
    changes: dict[str, Any] = {"data": {"train": ["2001-01-02", "2001-02-20"]}}
    source = toy_source(folder, **changes)
    assert source.fields is not None
    record = source.fields.record
    partial = replace(source.fields, record=Failing(record, int(record.times[0])))
    trained = toy_trained(folder, replace(source, fields=partial), **changes)
    assert bool(score_weather(trained, ALONE_WORLD).of_starts.values["crps"].isfinite().all())


@pytest.mark.parametrize("states", [4000, 51, 34])
def test_a_climatology_of_some_states_knows_every_hour_of_the_day(
    folder: Path, source: Source, states: int
) -> None:
    """102 training states, 12 h apart: every second or third of them, taken evenly, would leave
    the means at 12 UTC to chance.
    """
    trained = toy_trained(folder, source)
    rollout = Rollout(trained.parts, torch.device("cpu"))
    times = rollout.fields.train_times
    assert len(times) in (101, 102)
    shape = trained.parts.source.output_shape
    made = fit_climatology(rollout, ALONE_WORLD, (shape[0], shape[1], shape[2]), states)
    truth = rollout.states(times)
    for hour in (0, 12):
        at = (times // 3600) % 24 == hour
        mean, guess = truth[at].mean(0), made.mean(times[at]).mean(0)
        assert float((mean - guess).abs().max()) < (1e-6 if states > 102 else 2.0)
        assert float((mean - guess).square().mean().sqrt()) < 0.4


@pytest.mark.parametrize(("number", "most"), [(1, 5), (7, 7), (7, 100), (1460, 365), (29220, 4000)])
def test_positions_of_thefit_climatology(number: int, most: int) -> None:
    chosen = spread_evenly(number, most)
    count = min(number, most)
    assert len(chosen) == count
    assert int(chosen[0]) >= 0
    assert int(chosen[-1]) < number
    assert bool((chosen.diff() > 0).all())
    if count == number:
        assert chosen.tolist() == list(range(number))
    else:
        shares = torch.bincount(chosen % 4, minlength=4) / count
        assert float((shares - 0.25).abs().max()) < 0.02
