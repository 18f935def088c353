"""What optimizers of a run are made from: without what only ``torch.compile`` needs, and where they
minimise the complexity term themselves.
"""

import inspect
from abc import abstractmethod

from torch.optim import Optimizer


class Uncompiled(Optimizer):
    """An optimizer that leaves ``torch._dynamo`` alone; its ``step`` must be unwrapped, too.

    PyTorch hides these methods from its compiler, and imports the compiler for that when one is
    called first: as much CPU time again as PyTorch itself takes, on every rank. Nothing is compiled
    here.
    """

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)


class ClosedForm(Uncompiled):
    """An optimizer that knows the complexity term of its posterior in closed form: gradients are of
    the data term alone.
    """

    @abstractmethod
    def begin(self, factor: float, *, final: float) -> None:
        """Start a step, before weights are drawn: ``factor`` is that of the complexity term now
        (``losses.objective``), ``final`` that after the warm-up.
        """
