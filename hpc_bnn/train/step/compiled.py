"""``train.compile``: the network of a pass through torch.compile, over the weights that it holds.

Weights are drawn, and masks of dropout are made, outside of what is compiled: their noise is keyed
by numbers that change from pass to pass.
"""

import logging
from typing import Any

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException

from hpc_bnn.bayes.dropout import leave_uncompiled
from hpc_bnn.bayes.inputs import Inputs

log = logging.getLogger(__name__)


class Compiled:
    """Calls ``module`` compiled; where that fails, with one warning, as it is."""

    def __init__(self, module: nn.Module) -> None:
        leave_uncompiled()

        def call(x: Inputs) -> Any:
            return module(x)

        self._plain, self._compiled = call, torch.compile(call)
        self._is_compiled = True

    def __call__(self, x: Inputs) -> Any:
        if self._is_compiled:
            try:
                return self._compiled(x)
            except TorchDynamoException as error:
                self._is_compiled = False
                reason = str(error.__cause__ or error).strip().partition("\n")[0]
                log.warning("train.compile: the network runs uncompiled: %s", reason[:300])
        return self._plain(x)
