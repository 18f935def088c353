"""The exponential moving average of what is trained.

    m_t = m_{t-1} + (1 - d) / (1 - d^t) (w_t - m_{t-1})
        = sum_{i=1..t} d^{t-i} w_i / sum_{i=1..t} d^{t-i}

of the weights w_t after step t, with decay d: their mean over about the last 1 / (1 - d) steps. Its
weights add up to one from the first step on, since each step has the bias correction of Adam: what
the network started with does not count, and the average of a constant is that constant.

Of what is per-sample each row has its own average; all of this is local to a rank.

Sources: Polyak, Juditsky 1992, doi:10.1137/0330046 (averages of iterates); Kingma, Ba 2015,
arXiv:1412.6980, section 3 (bias correction).
"""

import contextlib
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class EMA:
    """The moving average of ``named``, parameters by name, in float32 or wider.

    Attributes
    ----------
    weights
        The averages by name; what they are before the first step does not count.
    steps
        t, steps averaged so far.
    """

    def __init__(self, named: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.weights: dict[str, Tensor] = {}
        self._follow(named)

    def _follow(self, named: Mapping[str, nn.Parameter]) -> None:
        """Average ``named`` and nothing else; what is new among it begins with its value now."""
        before = self.weights
        self._named, self.weights = named, {}
        for name, p in named.items():
            average = before.get(name)
            if average is None or average.shape != p.shape:
                average = p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True)
            self.weights[name] = average

    @torch.no_grad()
    def update(self, named: Mapping[str, nn.Parameter]) -> None:
        """Take up what a step made of ``named``, everything that is trained now: the same mapping
        as before, or another one where something was frozen, thawed, added or replaced.
        """
        if self._named is not named:
            self._follow(named)
        self.steps += 1
        share = (1 - self.decay) / -math.expm1(self.steps * math.log(self.decay))
        averages = list(self.weights.values())
        now = [p.to(m.dtype) for p, m in zip(named.values(), averages, strict=True)]
        if self.steps == 1:  # what was there before may be no number
            torch._foreach_copy_(averages, now)
        else:
            torch._foreach_lerp_(averages, now, share)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Hold the averages in the parameters, for prediction; nothing may be trained meanwhile.
        Before the first step the parameters stay what they are.
        """
        before = {name: p.data for name, p in self._named.items()}
        try:
            for name, p in self._named.items() if self.steps else ():
                p.data = self.weights[name].to(p.dtype)
            yield
        finally:
            for name, p in self._named.items():
                p.data = before[name]
