"""Objects between ranks: large tensors travel beside the message, once each, of any type."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from hpc_bnn.parallel import objects
from hpc_bnn.parallel.objects import packed, unpacked


@dataclass(frozen=True)
class Held:
    images: Tensor
    rows: Tensor
    name: str


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "LARGE", 64)


def there(value: object) -> object:
    message, sent = packed(value)
    result, received = unpacked(message)
    assert [(t.shape, t.dtype) for t in sent] == [(t.shape, t.dtype) for t in received]
    for target, source in zip(received, sent, strict=True):
        target.copy_(source)
    return result


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.bool, torch.uint8], ids=str)
def test_a_tensor_that_is_held_twice_travels_once(dtype: torch.dtype) -> None:
    large = (torch.arange(90) % 3).to(dtype).view(9, 10)
    value = [Held(large, torch.arange(3), "a"), {"again": large, "turned": large.t()}]
    assert len(packed(value)[1]) == 2
    first, second = there(value)  # type: ignore[misc]
    assert first.name == "a" and first.rows.tolist() == [0, 1, 2]
    assert first.images is second["again"]
    assert torch.equal(first.images, large) and torch.equal(second["turned"], large.t())


def test_what_stays_in_the_message() -> None:
    value = {
        "small": torch.ones(3),
        "outline": torch.empty(50, device="meta"),
        "empty": torch.empty(0, 50),
    }
    assert packed(value)[1] == []
    result = there(value)
    assert isinstance(result, dict)
    assert result["small"].tolist() == [1, 1, 1]
    assert result["outline"].is_meta and result["outline"].shape == (50,)
    assert result["empty"].shape == (0, 50)


def test_what_is_made_of_plain_tensors() -> None:
    value = {"parameter": nn.Parameter(torch.ones(50)), "sparse": torch.eye(20).to_sparse()}
    result = there(value)
    assert isinstance(result, dict)
    assert isinstance(result["parameter"], nn.Parameter)
    assert torch.equal(result["parameter"].detach(), torch.ones(50))
    assert torch.equal(result["sparse"].to_dense(), torch.eye(20))


def test_the_message_is_small() -> None:
    assert len(packed(torch.zeros(1 << 20))[0]) < 300
