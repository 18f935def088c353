"""Which engine moves tensors, where ranks meet, and which gradients travel together."""

import pytest
import torch
from torch import nn

from hpc_bnn.group import ALONE
from hpc_bnn.parallel import bucket
from hpc_bnn.parallel.address import interface_of, own_address
from hpc_bnn.parallel.bucket import fill_buckets, kind_of
from hpc_bnn.parallel.engines import Wish, agree_on_engine, choose
from hpc_bnn.parallel.launcher import LaunchError
from hpc_bnn.parallel.torch_dist import TorchEngine

CPU = torch.device("cpu")


def wish(engine: str = "auto", device: str = "cpu", **missing: str) -> Wish:
    return Wish(engine, device, missing)


@pytest.mark.parametrize(
    ("wishes", "chosen"),
    [
        ([wish()] * 2, "horovod"),
        ([wish(horovod="no module")] * 2, "torch"),
        ([wish("torch")] * 2, "torch"),
        ([wish("horovod")] * 2, "horovod"),
    ],
)
def test_the_engine_of_all_ranks(wishes: list[Wish], chosen: str) -> None:
    assert choose(wishes, ranks=2) == chosen


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ([wish("torch"), wish("horovod")], "torch on world rank 0 and horovod on world rank 1"),
        ([wish(device="cuda"), wish()], "rank 0 computes on cuda and world rank 1 on cpu"),
        (
            [wish("horovod", horovod="no module")] * 2,
            r"grid.engine = horovod: 2 ranks need an engine: no module, or set grid.engine=torch$",
        ),
        ([wish(horovod="no module", torch="no gloo")] * 2, "need an engine: no module; no gloo$"),
        (
            [wish(), wish(horovod="no module")],
            "rank 0 can use horovod, world rank 1 cannot: no module; install the same on all nodes",
        ),
    ],
)
def test_wishes_that_do_not_fit(wishes: list[Wish], message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        choose(wishes, ranks=2)


def test_no_such_engine() -> None:
    with pytest.raises(ValueError, match=r"grid\.engine = 'mpi': expected one of auto, horovod"):
        agree_on_engine(ALONE, "mpi", CPU)


def test_a_torch_that_lacks_what_the_device_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("gloo", "nccl"):
        monkeypatch.setattr(torch.distributed, f"is_{library}_available", lambda: False)
    assert "built without gloo" in TorchEngine.missing(CPU)
    assert "built without NCCL" in TorchEngine.missing(torch.device("cuda"))
    assert TorchEngine.describe() == ("NCCL no, gloo no", False)


def test_where_ranks_meet() -> None:
    loopback = interface_of("127.0.0.1")
    assert loopback
    assert interface_of("192.0.2.1") == ""  # of nobody, RFC 5737
    assert own_address([], {"NCCL_SOCKET_IFNAME": f"={loopback}"}) == "127.0.0.1"
    with pytest.raises(OSError, match=r"no way to localhost; name the network interface"):
        own_address(["localhost"], {})


def test_buckets_hold_what_travels_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "LEAST_BYTES", 48)
    shapes = {"a": 4, "b": 6, "c": 3, "rows": 2, "d": 30, "e": 1}
    named = {name: nn.Parameter(torch.zeros(size)) for name, size in shapes.items()}
    kinds = {
        name: kind_of(p, ("data",) if name == "rows" else ("world",), "none")
        for name, p in named.items()
    }
    filled = fill_buckets(named.items(), kinds.__getitem__)
    assert [list(one.named) for one in filled] == [["a", "b"], ["c"], ["d"], ["e"], ["rows"]]


def test_how_gradients_travel() -> None:
    def wire(dtype: torch.dtype, compression: str = "none") -> torch.dtype:
        parameter = nn.Parameter(torch.zeros(1, dtype=dtype))
        return kind_of(parameter, (), compression).wire  # type: ignore[arg-type]

    assert wire(torch.bfloat16) == wire(torch.float32) == wire(torch.complex64) == torch.float32
    assert wire(torch.float64) == wire(torch.complex128) == torch.float64
    assert wire(torch.float64, "bf16") == torch.bfloat16
    assert wire(torch.bfloat16, "fp16") == torch.float16
