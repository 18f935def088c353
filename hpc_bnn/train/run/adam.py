"""The optimizer of a run, without what only ``torch.compile`` needs of it."""

import inspect

import torch
from torch import optim


class Adam(optim.Adam):
    """Adam that leaves ``torch._dynamo`` alone.

    PyTorch hides these methods from its compiler, and imports the compiler for that when one is
    called first: as much CPU time again as PyTorch itself takes, on every rank. Nothing is compiled
    here.
    """

    add_param_group = inspect.unwrap(optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(optim.Optimizer.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(optim.Adam.step))
