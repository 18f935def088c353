"""The engine over torch.distributed (NCCL on GPUs, gloo on CPUs): the only file that imports it.

The ranks are those of MPI. World rank 0 listens on a port that the system chooses, and MPI tells
the others which: none is agreed on before, so none can be taken. Each axis of the grid is a process
group, the world itself where it spans that.
"""

import atexit
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from hpc_bnn.group import Group, RankError, Reduction
from hpc_bnn.parallel.address import LOOPBACK, interface_of, own_address
from hpc_bnn.parallel.engine import Axis, Compression, Engine, Ranks
from hpc_bnn.parallel.launcher import SHARED_GPU, LaunchError, machine_name

T = TypeVar("T")

MEET_S = 120.0  # for the ranks to connect
FOR_EVER = timedelta(days=365)  # the watchdog ends an exchange that lasts too long, and says why
MONITOR = "TORCH_NCCL_ENABLE_MONITORING"


class TorchEngine(Engine):
    """Collective: connect the ranks and make the process groups of the grid's axes."""

    name, title = "torch", "torch.distributed"
    compressions = frozenset[Compression](("none", "fp16", "bf16"))

    def __init__(self, ranks: Ranks) -> None:
        on_gpu = ranks.device.type == "cuda"
        # Under a limit this thread waits for the GPU itself, where the watchdog sees it.
        self._stream_waits = on_gpu and bool(ranks.stall_timeout_s)
        if on_gpu:
            # It ends jobs in which a rank computes for eight minutes, and names nobody.
            os.environ.setdefault(MONITOR, "0")
        everyone = ranks.all_ranks
        machines = everyone.gather((socket.gethostname(), machine_name()), name="machines")
        store = _together(everyone, lambda: _listen(ranks, machines), "listen for the others")
        where = everyone.broadcast(None if store is None else (store.host, store.port), name="port")
        assert where is not None
        at = f"{where[0]}:{where[1]}"
        reached = _together(
            everyone, lambda: store or _store(ranks, where), f"reach rank 0 at {at}"
        )
        groups = _together(everyone, lambda: _groups(ranks, reached), "connect with the others")
        self._ranks, self._groups = ranks, groups
        atexit.register(_disconnect)

    @staticmethod
    def is_installed() -> bool:
        return dist.is_available()

    @staticmethod
    def missing(device: torch.device) -> str:
        if not dist.is_available():
            return "this torch was built without torch.distributed: install another build of it"
        if _takes_nccl(device):
            missing = "" if dist.is_nccl_available() else "NCCL"
        else:
            missing = "" if dist.is_gloo_available() else "gloo"
        return missing and f"this torch was built without {missing}: install one that has it"

    @staticmethod
    def describe() -> tuple[str, bool]:
        gloo = dist.is_gloo_available()
        built = ("yes" if one else "no" for one in (dist.is_nccl_available(), gloo))
        return "NCCL {}, gloo {}".format(*built), gloo or dist.is_nccl_available()

    def prepare(self, axes: Iterable[Axis]) -> None:
        return  # a rank has made its own three groups at the start

    def all_reduce_async(self, x: Tensor, *, axis: Axis, name: str) -> "_Begun":
        return self._begun(dist.all_reduce(x, group=self._groups[axis], async_op=True), name)

    def all_reduce(self, x: Tensor, *, reduction: Reduction, axis: Axis, name: str) -> Tensor:
        out = x.clone(memory_format=torch.contiguous_format)
        op = dist.ReduceOp.SUM if reduction == "sum" else dist.ReduceOp.MAX
        group = self._groups[axis]
        self._begun(dist.all_reduce(out, op=op, group=group, async_op=True), name).wait()
        return out

    def all_gather(self, x: Tensor, *, axis: Axis, name: str) -> Tensor:
        group = self._groups[axis]
        out = x.new_empty((group.size() * x.shape[0], *x.shape[1:]))
        # Newer releases have renamed it.
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        self._begun(gather(out, x.contiguous(), group=group, async_op=True), name).wait()
        return out

    def all_to_all(self, x: Tensor, *, axis: Axis, name: str) -> Tensor:
        sent = x.contiguous()
        out = torch.empty_like(sent)
        work = dist.all_to_all_single(out, sent, group=self._groups[axis], async_op=True)
        self._begun(work, name).wait()
        return out

    def broadcast(self, x: Tensor, *, axis: Axis, name: str) -> None:
        first = self._ranks.of(axis)[0]
        work = dist.broadcast(x, src=first, group=self._groups[axis], async_op=True)
        self._begun(work, name).wait()

    def stop(self) -> None:
        # Rank 0, where the others have met, leaves last.
        self._ranks.all_ranks.gather(None, name="end of torch.distributed")
        _disconnect()

    def _begun(self, work: Any, name: str) -> "_Begun":
        return _Begun(work, name, stream_waits=self._stream_waits)


class _Begun:
    """A collective on its way."""

    def __init__(self, work: Any, name: str, *, stream_waits: bool) -> None:
        self._work, self._name, self._stream_waits = work, name, stream_waits

    def wait(self) -> None:
        try:
            self._work.wait()
            if self._stream_waits:
                torch.cuda.current_stream().synchronize()
        except RuntimeError as error:
            raise RankError(
                f"{self._name}: the exchange broke off, because a rank ended or the network "
                f"failed ({_first_line(error)})"
            ) from error


def _listen(ranks: Ranks, machines: list[tuple[str, str]]) -> Any:
    """Return the store at which world rank 0 waits for the others; None on these."""
    if dist.is_initialized():
        raise RuntimeError(
            "it is connected already: leave init_process_group to hb.start, and call stop() of one "
            "world before the next is started"
        )
    if ranks.grid.world_rank:
        return None
    host = LOOPBACK
    if len({machine for _, machine in machines}) > 1:
        own = machines[0][1]
        peers = dict.fromkeys(host for host, machine in machines if machine != own)
        host = own_address(peers, os.environ)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.bind((host, 0))
        listening.listen(socket.SOMAXCONN)
        port = listening.getsockname()[1]
        return _store(ranks, (host, port), listens_at=listening.detach())


def _store(ranks: Ranks, where: tuple[str, int], *, listens_at: int | None = None) -> Any:
    return dist.TCPStore(
        *where,
        ranks.grid.world_size,
        listens_at is not None,
        timeout=timedelta(seconds=MEET_S),
        wait_for_workers=False,
        master_listen_fd=listens_at,
    )


def _groups(ranks: Ranks, store: Any) -> dict[Axis, Any]:
    """Collective: connect the ranks; return the process groups of the axes of several ranks."""
    nccl = _takes_nccl(ranks.device)
    if not nccl and "GLOO_SOCKET_IFNAME" not in os.environ:
        # gloo would take what the name of the host resolves to, on Debian 127.0.1.1.
        interface = interface_of(_own_end(store.host))
        if interface:
            os.environ["GLOO_SOCKET_IFNAME"] = interface
    limit, hook = timedelta(seconds=MEET_S), sys.excepthook
    dist.init_process_group(
        "nccl" if nccl else "gloo",
        store=store,
        rank=ranks.grid.world_rank,
        world_size=ranks.grid.world_size,
        timeout=limit,
        device_id=ranks.device if nccl else None,
    )
    # That of torch holds back what another one writes until it returns, and ours ends the process.
    sys.excepthook = hook
    groups: dict[Axis, Any] = {"world": dist.group.WORLD}
    axes: tuple[Axis, ...] = ("samples", "data")
    for axis in axes:
        if ranks.size(axis) == ranks.grid.world_size:
            groups[axis] = dist.group.WORLD
        elif ranks.size(axis) > 1:
            groups[axis] = dist.new_group(
                ranks.of(axis), timeout=limit, use_local_synchronization=True
            )
    for group in groups.values():
        dist.distributed_c10d._set_pg_timeout(FOR_EVER, group)
    return groups


def _takes_nccl(device: torch.device) -> bool:
    """Tell which library is used: NCCL takes one rank a GPU; gloo carries tensors of shared ones
    through the host.
    """
    return device.type == "cuda" and SHARED_GPU not in os.environ


def _own_end(host: str) -> str:
    return LOOPBACK if host == LOOPBACK else own_address([host], os.environ)


def _disconnect() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _together(everyone: Group, action: Callable[[], T], what: str) -> T:
    """Collective: run ``action``; where it fails on any rank, raise one and the same error on every
    rank, of the rank that failed first: the others may have failed because of it.
    """
    began, result, report = time.monotonic(), None, None
    try:
        result = action()
    except Exception as error:  # torch has many
        report = (time.monotonic() - began, _first_line(error))
    reports = everyone.gather(report, name=f"torch.distributed: {what}")
    failures = [(*one, rank) for rank, one in enumerate(reports) if one is not None]
    if failures:
        _disconnect()
        _, text, rank = min(failures)
        raise LaunchError(
            f"grid.engine = torch: rank {rank} cannot {what}: {text}; look at the network of the "
            "nodes (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME), or set grid.engine=horovod"
        )
    return result  # type: ignore[return-value]


def _first_line(error: Exception) -> str:
    """Return what torch says before it lists where."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
