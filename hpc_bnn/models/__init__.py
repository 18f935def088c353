"""Networks. To add one: a file here and a line in MODELS; called as model(input_shape,
output_shape, **options).
"""

from collections.abc import Callable

from torch import nn

from hpc_bnn.models.dlinear import DLinear
from hpc_bnn.models.linear import Linear
from hpc_bnn.models.mlp import MLP
from hpc_bnn.models.patch_transformer import PatchTransformer
from hpc_bnn.models.residual_mlp import ResidualMLP
from hpc_bnn.models.swin import Swin
from hpc_bnn.models.vit import ViT

MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "swin": Swin,
    "vit": ViT,
    "linear": Linear,
    "dlinear": DLinear,
    "residual_mlp": ResidualMLP,
    "patch_transformer": PatchTransformer,
}

__all__ = [
    "MLP",
    "MODELS",
    "DLinear",
    "Linear",
    "PatchTransformer",
    "ResidualMLP",
    "Swin",
    "ViT",
]
