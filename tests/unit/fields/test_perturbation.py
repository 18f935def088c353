"""Keyed noise on states: its size by channel, and that it belongs to its stream alone."""

from typing import Any

import pytest
import torch
from field_source import field_source

from hpc_bnn.bayes.noise import Purpose, Stream
from hpc_bnn.data.source import Fields
from hpc_bnn.fields.perturb.perturbation import Perturbation

ROWS, COLUMNS = 24, 48
LIKE = torch.zeros(1, dtype=torch.float64)


def fields(**options: Any) -> Fields:
    made = field_source(rows=ROWS, columns=COLUMNS, **options).fields
    assert made is not None
    return made


def perturbation(of: Fields, **changes: Any) -> Perturbation:
    options: dict[str, Any] = {"name": "gaussian", "scale": 0.5, "unit": "state", "options": {}}
    return Perturbation(of, **(options | changes))


def streams(count: int) -> list[Stream]:
    return [Stream(3, Purpose.PERTURBATION, 100, member) for member in range(count)]


@pytest.mark.parametrize("name", ["gaussian", "spherical"])
def test_the_size_is_that_of_each_channel(name: str) -> None:
    """400 fields: a standard deviation over members and area is known to 3 %, five of which are
    more than what is asked.
    """
    of = fields()
    options = {"length_km": 1500.0} if name == "spherical" else {}
    noise = perturbation(of, name=name, options=options).draw(streams(400), LIKE)[:, 0]
    assert noise.shape == (400, 2, ROWS, COLUMNS)
    for channel in range(2):
        assert float(noise[:, channel].std()) == pytest.approx(0.5, rel=0.05)
    in_changes = perturbation(of, name=name, options=options, unit="change")
    change = in_changes.draw(streams(3), LIKE)[:, 0]
    ratio = (of.tendency_std / of.state_std)[:, None, None]
    torch.testing.assert_close(change, noise[:3] * ratio, rtol=1e-12, atol=1e-12)
    one_channel = perturbation(of, name=name, options=options, scale={"b": 1.0})
    only = one_channel.draw(streams(3), LIKE)[:, 0]
    assert bool((only[:, 0] == 0).all())
    torch.testing.assert_close(only[:, 1], 2 * noise[:3, 1], rtol=1e-12, atol=1e-12)


def test_channels_and_members_have_noise_of_their_own() -> None:
    noise = perturbation(fields(), name="spherical", options={"length_km": 3000.0})
    drawn = noise.draw(streams(3), LIKE, number=2).flatten(0, 2)
    for i, one in enumerate(drawn):
        assert all(bool((one != other).all()) for other in drawn[:i])


def test_it_is_the_same_wherever_it_is_drawn() -> None:
    noise = perturbation(fields(), name="spherical", options={"length_km": 3000.0})
    together = noise.draw(streams(4), LIKE)
    torch.testing.assert_close(noise.draw(streams(4)[2:3], LIKE)[0], together[2], rtol=0, atol=0)
    more = noise.draw(streams(1), LIKE, number=5)
    torch.testing.assert_close(more[:, :1], together[:1], rtol=0, atol=0)
    later = noise.draw(streams(1), LIKE, first=2, number=2)
    torch.testing.assert_close(more[:, 2:4], later, rtol=0, atol=0)


def test_points_without_values_keep_none() -> None:
    present = torch.ones(2, ROWS, COLUMNS, dtype=torch.bool)
    present[0, 3, 5] = present[1, 7] = False
    noise = perturbation(fields(present=present)).draw(streams(2), LIKE)[:, 0]
    assert torch.equal((noise != 0).all(0), present)


def test_an_unknown_channel_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"perturb\.scale: no channel 'c'.*there are a, b"):
        perturbation(fields(), scale={"c": 1.0})
    with pytest.raises(ValueError, match="the grid is of a region"):
        perturbation(fields(periodic=False), name="spherical")
