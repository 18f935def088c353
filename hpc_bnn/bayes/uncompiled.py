"""The base of the optimizers of a run, without what only ``torch.compile`` needs of it."""

import inspect

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
