"""Networks. To add one: a file here and a line in MODELS; called as model(input_shape,
output_shape, **options).
"""

from collections.abc import Callable

from torch import nn

from hpc_bnn.models.mlp import MLP

MODELS: dict[str, Callable[..., nn.Module]] = {"mlp": MLP}

__all__ = ["MLP", "MODELS"]
