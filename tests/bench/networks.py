"""The networks that the benchmarks train, with one batch of examples and the loss of each.

The multilayer perceptron sees few rows per weight, so noise and memory traffic dominate; the
transformer stack sees thousands, so matrix products do; the SWIN transformer, that of weather
forecasts, lies in between.

Letters: B batch, L tokens, F features.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from hpc_bnn import losses
from hpc_bnn.losses.base import JointLoss, Loss
from hpc_bnn.models.mlp import MLP
from hpc_bnn.models.swin import Swin

# Size of an imagined training set: it only scales the KL.
NUM_EXAMPLES = 10_000


@dataclass(frozen=True)
class Task:
    """What is trained on what.

    Attributes
    ----------
    alone
        The loss of the deterministic network where ``loss`` is one of several samples.
    """

    network: Callable[[], nn.Module]
    loss: Callable[[], Loss]
    x: Tensor
    y: Tensor
    alone: Callable[[Tensor, Tensor], Tensor] | None = None


class Block(nn.Module):
    """One transformer block: attention, then a perceptron, each after a norm and with a bypass."""

    def __init__(self, features: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_hidden = nn.LayerNorm(features), nn.LayerNorm(features)
        self.queries_keys_values = nn.Linear(features, 3 * features)
        self.merge = nn.Linear(features, features)
        self.hidden = nn.Sequential(
            nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, features)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, L, F) for ``x`` (B, L, F)."""
        parts = self.queries_keys_values(self.norm_attention(x)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        attended = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.merge(attended.transpose(1, 2).flatten(2))
        return x + self.hidden(self.norm_hidden(x))


class TransformerStack(nn.Module):
    """Blocks over a sequence of tokens, then logits of the mean token."""

    def __init__(self, depth: int, *, features: int = 192, hidden: int = 768) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(Block(features=features, heads=3, hidden=hidden) for _ in range(depth))
        )
        self.norm, self.head = nn.LayerNorm(features), nn.Linear(features, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 10) for ``x`` (B, L, F)."""
        logits: Tensor = self.head(self.norm(self.blocks(x)).mean(dim=1))
        return logits


def mlp() -> Task:
    """512-1024-1024-96, 1.7 million weights, batch of 64."""
    generator = torch.Generator().manual_seed(0)
    return Task(
        network=lambda: MLP((512,), (96,), hidden=(1024, 1024)),
        loss=losses.gaussian_nll,
        x=torch.randn(64, 512, generator=generator),
        y=torch.randn(64, 96, generator=generator),
    )


def transformer(depth: int) -> Task:
    """``depth`` blocks of 192 features, 0.44 million weights each, batch of 32 with 64 tokens."""
    generator = torch.Generator().manual_seed(0)
    return Task(
        network=lambda: TransformerStack(depth),
        loss=losses.categorical_nll,
        x=torch.randn(32, 64, 192, generator=generator),
        y=torch.randint(10, (32,), generator=generator),
    )


def swin(loss: Callable[[], Loss]) -> Task:
    """Default SWIN transformer on a 32 x 64 globe of 6 channels, 6 million weights, batch of 4.

    Where the loss joins samples, the deterministic network minimises the CRPS of one member.
    """
    generator = torch.Generator().manual_seed(0)
    return Task(
        network=lambda: Swin((6, 32, 64), (6, 32, 64), width=96),
        loss=loss,
        x=torch.randn(4, 6, 32, 64, generator=generator),
        y=torch.randn(4, 6, 32, 64, generator=generator),
        alone=functional.l1_loss if isinstance(loss(), JointLoss) else None,
    )


def demo_swin() -> Task:
    """A SWIN transformer of 0.6 million weights on 4 states of the toy atmosphere of the demo."""
    generator = torch.Generator().manual_seed(0)
    model = {"width": 48, "depths": (2, 2, 2, 2), "heads": (4, 8, 8, 4), "window": (4, 8)}
    return Task(
        network=lambda: Swin((5, 32, 64), (4, 32, 64), **model),
        loss=losses.gaussian_nll,
        x=torch.randn(4, 5, 32, 64, generator=generator),
        y=torch.randn(4, 4, 32, 64, generator=generator),
    )


def narrow_mlp() -> Task:
    """8-16-16-4, one example: a step takes as long as its calls do."""
    return Task(
        network=lambda: MLP((8,), (4,), hidden=(16, 16)),
        loss=losses.gaussian_nll,
        x=torch.randn(1, 8),
        y=torch.randn(1, 4),
    )


def narrow_transformer() -> Task:
    """Six blocks of 12 features, one example of four tokens."""
    return Task(
        network=lambda: TransformerStack(6, features=12, hidden=16),
        loss=losses.categorical_nll,
        x=torch.randn(1, 4, 12),
        y=torch.randint(10, (1,)),
    )


def narrow_swin() -> Task:
    """The SWIN transformer with tokens of 12 numbers, one example of two channels."""
    return Task(
        network=lambda: Swin((2, 32, 64), (2, 32, 64), width=12),
        loss=losses.gaussian_nll,
        x=torch.randn(1, 2, 32, 64),
        y=torch.randn(1, 2, 32, 64),
    )


TASKS: dict[str, Callable[[], Task]] = {
    "mlp": mlp,
    "transformer-2": lambda: transformer(2),
    "transformer-6": lambda: transformer(6),
    "swin-nll": lambda: swin(losses.gaussian_nll),
    "swin-crps": lambda: swin(losses.almost_fair_crps),
    "demo-swin": demo_swin,
    "narrow-mlp": narrow_mlp,
    "narrow-transformer": narrow_transformer,
    "narrow-swin": narrow_swin,
}
