"""What ranks of one MPI communicator exchange: host tensors and objects by MPI, which takes
microseconds where an engine may take a millisecond, GPU tensors by the engine.

mpi4py itself is handed in.
"""

import pickle
import socket
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from hpc_bnn.group import ALONE, Group, Reduction
from hpc_bnn.parallel.engine import Engine
from hpc_bnn.parallel.launcher import LaunchError
from hpc_bnn.parallel.objects import packed, unpacked
from hpc_bnn.parallel.watchdog import Watchdog, watch

T = TypeVar("T")

# Of one message: MPI counts bytes in 32 bits, and a rank needs memory for it besides its target.
PART_BYTES = 64 << 20


class MPIGroup(Group):
    """A group over an mpi4py communicator.

    Parameters
    ----------
    watchdog
        Ends the job where some rank does not join an exchange in time; None: exchanges wait for
        ever.
    engine
        Moves tensors on GPUs, over the sample axis.
    """

    def __init__(
        self,
        mpi: Any,
        comm: Any,
        *,
        watchdog: Watchdog | None = None,
        engine: Engine | None = None,
    ) -> None:
        self._mpi, self.comm, self._engine = mpi, comm, engine
        self.watchdog = watchdog or Watchdog()
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()

    def require_threads(self) -> None:
        """Require that MPI lets the threads of engine and watchdog exchange beside this one.

        Raises
        ------
        LaunchError
            If it does not; the same on every rank.
        """
        if self._mpi.Query_thread() < self._mpi.THREAD_MULTIPLE:
            raise LaunchError(
                "MPI was started for fewer threads than engine and watchdog need: expected "
                "MPI_THREAD_MULTIPLE; unset MPI4PY_RC_THREADS, MPI4PY_RC_THREAD_LEVEL and "
                "mpi4py.rc.thread_level, or use an MPI that was built with it"
            )

    def limited(self, stall_timeout_s: float) -> "MPIGroup":
        """Collective: return the same group with another limit on how long its exchanges wait for a
        rank; 0: none.
        """
        if not stall_timeout_s:
            return MPIGroup(self._mpi, self.comm)
        hosts = self.gather(socket.gethostname(), name="hosts")
        watchdog = watch(self._mpi, self.comm, hosts, stall_timeout_s)
        return MPIGroup(self._mpi, self.comm, watchdog=watchdog)

    def through(self, engine: Engine) -> "MPIGroup":
        """Return the same group, the sample axis, with what moves its tensors on GPUs."""
        return MPIGroup(self._mpi, self.comm, watchdog=self.watchdog, engine=engine)

    def all_reduce(self, x: Tensor, *, reduction: Reduction, name: str) -> Tensor:
        if self._engine and not x.is_cpu:
            with self.watchdog.watching(name):
                return self._engine.all_reduce(x, reduction=reduction, axis="samples", name=name)
        x = x.contiguous()
        out = torch.empty_like(x)
        op = self._mpi.SUM if reduction == "sum" else self._mpi.MAX
        self._finish(self.comm.Iallreduce(x.numpy(), out.numpy(), op=op), name)
        return out

    def all_gather(self, x: Tensor, *, name: str) -> Tensor:
        if self._engine and not x.is_cpu:
            with self.watchdog.watching(name):
                return self._engine.all_gather(x, axis="samples", name=name)
        x = x.contiguous()
        out = x.new_empty((self.size * x.shape[0], *x.shape[1:]))
        self._finish(self.comm.Iallgather(x.numpy(), out.numpy()), name)
        return out

    def all_to_all(self, x: Tensor, *, name: str) -> Tensor:
        if self._engine and not x.is_cpu:
            with self.watchdog.watching(name):
                return self._engine.all_to_all(x, axis="samples", name=name)
        x = x.contiguous()
        out = torch.empty_like(x)
        self._finish(self.comm.Ialltoall(x.numpy(), out.numpy()), name)
        return out

    def broadcast_tensor(self, x: Tensor, *, name: str) -> None:
        self._send(x.view(-1).view(torch.uint8).numpy(), 0, name)

    def gather_tensor(self, x: Tensor, *, name: str) -> Tensor | None:
        everyone = x.new_empty((self.size, *x.shape)) if self.rank == 0 else None
        received = None if everyone is None else everyone.numpy()
        self._finish(self.comm.Igather(x.numpy(), received, root=0), name)
        return everyone

    def gather(self, value: T, *, name: str) -> list[T]:
        mine = np.frombuffer(pickle.dumps(value), dtype=np.uint8)
        sizes = np.empty(self.size, dtype=np.int64)
        own_size = np.array([mine.size], dtype=np.int64)
        self._finish(self.comm.Iallgather(own_size, sizes), name)
        everyone = np.empty(int(sizes.sum()), dtype=np.uint8)
        items = np.split(everyone, sizes.cumsum()[:-1])
        if everyone.size <= PART_BYTES:
            self._finish(self.comm.Iallgatherv(mine, (everyone, sizes.tolist())), name)
        else:
            items[self.rank][:] = mine
            for rank, item in enumerate(items):
                self._send(item, rank, name)
        return [pickle.loads(item.data) for item in items]

    def broadcast(self, value: T, *, name: str) -> T:
        message, tensors = packed(value) if self.rank == 0 else (b"", [])
        size = np.array([len(message)], dtype=np.int64)
        self._finish(self.comm.Ibcast(size, root=0), name)
        content = np.frombuffer(message, dtype=np.uint8)
        if self.rank != 0:
            content = np.empty(int(size[0]), dtype=np.uint8)
        self._send(content, 0, name)
        result = value
        if self.rank != 0:
            result, tensors = unpacked(content.data)
        for tensor in tensors:
            self.broadcast_tensor(tensor, name=name)
        return result

    def split(self, color: int, key: int) -> Group:
        comm = self.comm.Split(color, key)
        if comm.Get_size() == 1:
            comm.Free()
            return ALONE
        return MPIGroup(self._mpi, comm, watchdog=self.watchdog)

    def _send(self, content: Any, root: int, name: str) -> None:
        """Collective: overwrite bytes (size,) with those of a rank, part by part."""
        for first in range(0, content.size, PART_BYTES):
            part = content[first : first + PART_BYTES]
            self._finish(self.comm.Ibcast(part, root=root), name)

    def _finish(self, request: Any, name: str) -> None:
        with self.watchdog.watching(name):
            request.Wait()
