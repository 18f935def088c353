"""Foreign inputs: keyed by index, of the right moments, with nothing left of the image."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpc_bnn.data.images.foreign import FOREIGN
from hpc_bnn.data.source import InMemory


def images(count: int = 40) -> InMemory:
    generator = torch.Generator().manual_seed(0)
    return InMemory(torch.randn(count, 3, 16, 16, generator=generator), torch.arange(count))


@pytest.mark.parametrize("name", FOREIGN)
@given(indices=st.lists(st.integers(0, 39), min_size=1, max_size=8))
def test_an_input_depends_on_its_index_alone(name: str, indices: list[int]) -> None:
    made = FOREIGN[name](images())
    assert len(made) == 40
    x, y = made.batch(torch.tensor(indices))
    assert x.shape == (len(indices), 3, 16, 16)
    assert x.dtype == torch.float32
    assert y.tolist() == indices
    for row, index in zip(x, indices, strict=True):
        alone, _ = made.batch(torch.tensor([index]))
        assert torch.equal(alone[0], row)


def test_noise_is_standard_normal_and_each_image_another() -> None:
    x, _ = FOREIGN["noise"](images()).batch(torch.arange(40))
    assert abs(float(x.mean())) < 0.03
    assert abs(float(x.std()) - 1) < 0.03
    assert torch.corrcoef(x.flatten(1)).fill_diagonal_(0).abs().max() < 0.2


def test_shuffled_images_hold_the_same_values_elsewhere() -> None:
    own = images()
    x, _ = FOREIGN["shuffled"](own).batch(torch.arange(40))
    assert torch.equal(x.flatten(1).sort().values, own.x.flatten(1).sort().values)
    moved = (x != own.x).float().mean()
    assert moved > 0.98
    place = torch.stack([(x[i].flatten() == own.x[i, 0, 0, 0]).nonzero()[0] for i in range(40)])
    assert place.unique().numel() > 30  # no order that all images share


def test_shifted_images_are_rolled_by_half() -> None:
    own = images()
    x, _ = FOREIGN["shifted"](own).batch(torch.arange(40))
    rows, columns = own.x.shape[-2:]
    assert torch.equal(x[..., 0, 0], own.x[..., -(rows // 2), -(columns // 2)])
    assert torch.equal(x.roll([-(rows // 2), -(columns // 2)], [-2, -1]), own.x)
