"""The sample axis over several ranks: host tensors by MPI at microsecond latency, GPU tensors by
Horovod.
"""

import time

from torch import Tensor

from hpc_bnn.losses.axis import Reduction
from hpc_bnn.parallel.channel import Channel
from hpc_bnn.parallel.engine import Engine


class RankAxis:
    """A ``SampleAxis`` whose ranks are those of the sample channel; see ``hpc_bnn.losses.axis`` for
    the contract.

    Attributes
    ----------
    waited_s
        Seconds that this rank has spent in exchanges since the start.
    """

    def __init__(self, channel: Channel, engine: Engine) -> None:
        self._channel, self._engine = channel, engine
        self.size, self.rank = channel.size, channel.rank
        self.waited_s = 0.0

    def all_reduce(self, x: Tensor, *, reduction: Reduction, name: str) -> Tensor:
        began = time.perf_counter()
        out = self._through(x).all_reduce(x, reduction=reduction, name=name)
        self.waited_s += time.perf_counter() - began
        return out

    def all_gather(self, x: Tensor, *, name: str) -> Tensor:
        began = time.perf_counter()
        out = self._through(x).all_gather(x, name=name)
        self.waited_s += time.perf_counter() - began
        return out

    def all_to_all(self, x: Tensor, *, name: str) -> Tensor:
        began = time.perf_counter()
        out = self._through(x).all_to_all(x, name=name)
        self.waited_s += time.perf_counter() - began
        return out

    def _through(self, x: Tensor) -> Channel | Engine:
        return self._channel if x.device.type == "cpu" else self._engine
