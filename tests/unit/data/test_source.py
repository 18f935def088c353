"""The contract of a data set: checked tensors and the way back to physical units."""

from __future__ import annotations

import pytest
import torch

from hpc_bnn.data.source import InMemory, Scale


def test_in_memory_reads_by_index() -> None:
    examples = InMemory(torch.arange(12.0).reshape(4, 3), torch.tensor([0, 1, 2, 3]))
    x, y = examples.batch(torch.tensor([2, 0, 2]))
    assert len(examples) == 4
    assert torch.equal(x, torch.tensor([[6.0, 7.0, 8.0], [0.0, 1.0, 2.0], [6.0, 7.0, 8.0]]))
    assert torch.equal(y, torch.tensor([2, 0, 2]))


def test_in_memory_names_both_lengths() -> None:
    with pytest.raises(ValueError, match=r"x has 4 examples but y has 3.*equal first dimension"):
        InMemory(torch.zeros(4, 2), torch.zeros(3))


def test_in_memory_refuses_a_scalar() -> None:
    with pytest.raises(ValueError, match=r"shape \(\).*first dimension"):
        InMemory(torch.tensor(1.0), torch.zeros(1))


def test_scale_returns_to_physical_units_in_float64() -> None:
    scale = Scale(
        mean=torch.tensor([1e5, 280.0], dtype=torch.float64),
        std=torch.tensor([100.0, 2.0], dtype=torch.float64),
        channels=("pressure", "temperature"),
        units="",
    )
    physical = scale.physical(torch.tensor([[[0.5, -1.0]]]))
    assert physical.dtype == torch.float64
    assert torch.equal(physical, torch.tensor([[[100050.0, 278.0]]], dtype=torch.float64))
