"""BatchNorm: what of it is exact on any grid of ranks, and what takes its place.

    y = weight * (x - mean) / sqrt(var + eps) + bias          for each channel

In training, mean and var are those of a rank's part of the batch, and running means of them change
with every pass: the outputs of an example depend on its neighbours, the weight samples mix, and the
ranks differ. It is refused. Two ways remain:

* *Frozen*: the running mean and variance of a pretrained network stay as they are. Then it is an
  affine map of each channel, a pure function of its input, and exact for every method and grid.
* *Replaced* by GroupNorm, whose statistics are those of one example.

Members with statistics of their own (ensembles, chains) would be exact where one data rank holds
the whole batch of a member and runs it in one pass. On a grid with several data ranks, or where a
batch is cut, they would be other networks, so they are not there.

Letters: B examples, C channels. Source: Ioffe, Szegedy 2015, arXiv:1502.03167; Wu, He 2018,
arXiv:1803.08494 (GroupNorm).
"""

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.parametrize import is_parametrized

# What BatchNorm itself does: subclasses of other libraries add activations to it.
_PLAIN = (_BatchNorm.forward, nn.SyncBatchNorm.forward)


class FrozenBatchNorm(nn.Module):
    """BatchNorm with a constant mean and variance, in training as in evaluation.

    Parameters
    ----------
    layer
        The BatchNorm whose parameters and statistics it takes over, under the same names.
    """

    def __init__(self, layer: _BatchNorm) -> None:
        super().__init__()
        self.eps = layer.eps
        self.weight: nn.Parameter | None
        self.bias: nn.Parameter | None
        self.register_parameter("weight", layer.weight if layer.affine else None)
        self.register_parameter("bias", layer.bias if layer.affine else None)
        self.running_mean: Tensor
        self.running_var: Tensor
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(layer, name))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised ``x`` (B, C, ...)."""
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )


def freeze_batchnorm(network: nn.Module) -> nn.Module:
    """Replace each BatchNorm of ``network`` by one that keeps its running mean and variance, and
    return the network; where it is itself a BatchNorm, the frozen one.

    Call it before the posterior is made. Weights and biases can still be trained, the names in the
    state dict stay.

    Raises
    ------
    ValueError
        If a layer has no running statistics, or does more than BatchNorm.
    """

    def frozen(name: str, layer: _BatchNorm) -> nn.Module:
        if layer.running_mean is None:
            raise ValueError(
                f"{name} is a {type(layer).__name__} without running statistics "
                "(track_running_stats=False), so there are none to keep; use "
                "hb.replace_batchnorm(network)"
            )
        return FrozenBatchNorm(layer)

    return _replaced(network, frozen)


def replace_batchnorm(network: nn.Module, *, groups: int = 32) -> nn.Module:
    """Replace each BatchNorm of ``network`` by a GroupNorm with its weight and bias, and return the
    network; where it is itself a BatchNorm, the GroupNorm.

    The network computes something else from then on: train it. Call it before the posterior is
    made.

    Parameters
    ----------
    groups
        Most groups of a layer. A layer gets the largest divisor of its channels that leaves at
        least two of them to a group. A BatchNorm1d gets one group: its examples may be single
        numbers a channel, of which small groups would leave little.

    Raises
    ------
    ValueError
        If ``groups`` is not positive, or a layer does more than BatchNorm.
    """
    if groups < 1:
        raise ValueError(f"groups = {groups}: must be at least 1")

    def group_norm(_: str, layer: _BatchNorm) -> nn.Module:
        channels = layer.num_features
        most = 1 if isinstance(layer, nn.BatchNorm1d) else max(1, min(groups, channels // 2))
        number = next(n for n in range(most, 0, -1) if channels % n == 0)
        norm = nn.GroupNorm(number, channels, eps=layer.eps, affine=False)
        if layer.affine:
            norm.affine = True
            norm.weight, norm.bias = layer.weight, layer.bias
        return norm

    return _replaced(network, group_norm)


def _replaced(network: nn.Module, make: Callable[[str, _BatchNorm], nn.Module]) -> nn.Module:
    """Put what ``make`` makes of each BatchNorm in its place, in all places of a shared one."""
    replacements: dict[int, nn.Module] = {}
    for name, layer in network.named_modules():
        if isinstance(layer, _BatchNorm):
            name = name or "the module"
            _require_plain(name, layer)
            replacements[id(layer)] = make(name, layer).train(layer.training)
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            parent._modules[name] = replacements.get(id(child), child)
    return replacements.get(id(network), network)


def _require_plain(name: str, layer: _BatchNorm) -> None:
    hooks = layer._forward_hooks or layer._forward_pre_hooks
    if cast(object, type(layer).forward) not in _PLAIN or is_parametrized(layer) or hooks:
        raise ValueError(
            f"{name} is a {type(layer).__name__} that does more than BatchNorm (a forward, hooks "
            "or parametrizations of its own), which would be lost; put BatchNorm and the rest "
            "there as layers of their own"
        )


def refuse_running_statistics(module: nn.Module) -> None:
    """Raise ValueError for the first layer whose outputs or buffers depend on the other examples
    of a batch.
    """
    for name, layer in module.named_modules():
        tracked = isinstance(layer, _InstanceNorm) and layer.track_running_stats
        if isinstance(layer, _BatchNorm) or tracked:
            advice = (
                "use nn.GroupNorm or track_running_stats=False"
                if tracked
                else "hb.freeze_batchnorm(network) keeps those of a pretrained network as they "
                "are, hb.replace_batchnorm(network) puts nn.GroupNorm there"
            )
            raise ValueError(
                f"{name or 'the module'} is a {type(layer).__name__}: its running statistics "
                f"would mix the weight samples and differ between ranks; {advice}"
            )
