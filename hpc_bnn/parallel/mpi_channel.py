"""What ranks of one MPI communicator exchange; mpi4py itself is handed in."""

import pickle
import socket
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from hpc_bnn.losses.axis import Reduction
from hpc_bnn.parallel.channel import Channel
from hpc_bnn.parallel.stall import watch
from hpc_bnn.parallel.watchdog import Watchdog

T = TypeVar("T")

# Of one message: MPI counts bytes in 32 bits, and a rank needs memory for it besides its target.
PART_BYTES = 64 << 20


class MPIChannel:
    """A channel over an mpi4py communicator.

    With a ``watchdog`` an exchange that some rank does not join in time ends the job; without, it
    waits for ever.
    """

    def __init__(self, mpi: Any, comm: Any, *, watchdog: Watchdog | None = None) -> None:
        self._mpi, self._comm, self.watchdog = mpi, comm, watchdog
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()

    def all_reduce(self, x: Tensor, *, reduction: Reduction, name: str) -> Tensor:
        x = x.contiguous()
        out = torch.empty_like(x)
        op = self._mpi.SUM if reduction == "sum" else self._mpi.MAX
        self._finish(self._comm.Iallreduce(x.numpy(), out.numpy(), op=op), name)
        return out

    def all_gather(self, x: Tensor, *, name: str) -> Tensor:
        x = x.contiguous()
        out = x.new_empty((self.size * x.shape[0], *x.shape[1:]))
        self._finish(self._comm.Iallgather(x.numpy(), out.numpy()), name)
        return out

    def all_to_all(self, x: Tensor, *, name: str) -> Tensor:
        x = x.contiguous()
        out = torch.empty_like(x)
        self._finish(self._comm.Ialltoall(x.numpy(), out.numpy()), name)
        return out

    def gather_objects(self, value: T, *, name: str) -> list[T]:
        mine = np.frombuffer(pickle.dumps(value), dtype=np.uint8)
        sizes = np.empty(self.size, dtype=np.int64)
        own_size = np.array([mine.size], dtype=np.int64)
        self._finish(self._comm.Iallgather(own_size, sizes), name)
        all_bytes = np.empty(int(sizes.sum()), dtype=np.uint8)
        items = np.split(all_bytes, sizes.cumsum()[:-1])
        if all_bytes.size <= PART_BYTES:
            self._finish(self._comm.Iallgatherv(mine, (all_bytes, sizes.tolist())), name)
        else:
            items[self.rank][:] = mine
            for rank, item in enumerate(items):
                self._send(item, rank, name)
        return [pickle.loads(item) for item in items]

    def broadcast(self, value: T, *, name: str) -> T:
        content = np.frombuffer(pickle.dumps(value if self.rank == 0 else None), dtype=np.uint8)
        size = np.array([content.size], dtype=np.int64)
        self._finish(self._comm.Ibcast(size, root=0), name)
        if self.rank != 0:
            content = np.empty(int(size[0]), dtype=np.uint8)
        self._send(content, 0, name)
        result: T = value if self.rank == 0 else pickle.loads(content)
        return result

    def broadcast_tensor(self, x: Tensor, *, name: str) -> None:
        self._send(x.view(-1).view(torch.uint8).numpy(), 0, name)

    def split(self, color: int, key: int) -> Channel:
        return self._on(self._comm.Split(color, key))

    def split_by_node(self) -> Channel:
        return self._on(self._comm.Split_type(self._mpi.COMM_TYPE_SHARED))

    def native(self) -> Any:
        return self._comm

    def limited(self, stall_timeout_s: float) -> "MPIChannel":
        """Collective: return the same channel with another limit."""
        if not stall_timeout_s:
            return MPIChannel(self._mpi, self._comm)
        hosts = self.gather_objects(socket.gethostname(), name="hosts")
        watchdog = watch(self._mpi, self._comm, hosts, stall_timeout_s)
        return MPIChannel(self._mpi, self._comm, watchdog=watchdog)

    def _on(self, comm: Any) -> "MPIChannel":
        return MPIChannel(self._mpi, comm, watchdog=self.watchdog)

    def _send(self, content: Any, root: int, name: str) -> None:
        """Collective: overwrite bytes (size,) with those of a rank, part by part."""
        for first in range(0, content.size, PART_BYTES):
            part = content[first : first + PART_BYTES]
            self._finish(self._comm.Ibcast(part, root=root), name)

    def _finish(self, request: Any, name: str) -> None:
        if self.watchdog is None:
            request.Wait()
        else:
            with self.watchdog.watching(name):
                request.Wait()
