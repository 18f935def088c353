"""Networks. To add one: a file here and a line in MODELS; called as model(input_shape,
output_shape, **options).
"""

from collections.abc import Callable

from torch import nn

from hpc_bnn.models.mlp import MLP
from hpc_bnn.models.swin import Swin
from hpc_bnn.models.vit import ViT

MODELS: dict[str, Callable[..., nn.Module]] = {"mlp": MLP, "swin": Swin, "vit": ViT}

__all__ = ["MLP", "MODELS", "Swin", "ViT"]
