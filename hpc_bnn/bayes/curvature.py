"""The curvature of a likelihood in the parameters of one linear layer, summed over examples.

The outputs of a network are those of the layer, z = W phi + b, moved and scaled, each by itself:
f_p = c z_q. Then the generalised Gauss-Newton matrix of [W | b] is exact from products of features,

    H[(o, i), (r, j)] = sum_n Lambda_n[o, r] phi_n[i] phi_n[j],

with Lambda_n the Hessian of -log p in z, a diagonal where outputs have independent noise.

Letters: B examples, N rows of phi (B, or B times tokens), F features and the 1 of the bias, O
outputs of the layer.
"""

from collections.abc import Iterable
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from hpc_bnn.bayes.held import Held, only_tensor
from hpc_bnn.bayes.inputs import Inputs, map_tensors
from hpc_bnn.bayes.noise import Purpose, Stream, uniforms

CHUNK_BYTES = 1 << 25  # of the products of features that are summed at a time


class Likelihood(Protocol):
    """What ``fit`` asks of the likelihood of a loss.

    Attributes
    ----------
    independent
        Whether the outputs of an example have independent noise.
    """

    independent: bool

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Return log p (B,) of targets under outputs (B, ...)."""

    def curvature(self, output: Tensor) -> Tensor:
        """Return the Hessian of -log p in the outputs in float64: its diagonal (B, ...) where they
        are independent, else (B, O, O).
        """


@torch.no_grad()
def summed_curvature(
    network: Held, layer: str, batches: Iterable[tuple[Inputs, Tensor]], likelihood: Likelihood
) -> tuple[Tensor, Tensor]:
    """Return H in float64, as (O, F, F) where outputs are independent, else (O, O, F, F) with both
    outputs first, and the sum of the log-likelihood.

    Raises
    ------
    ValueError
        If the network mixes the outputs of the layer, or moves those of one that are not
        independent.
    """
    linear = cast(nn.Linear, network.module.get_submodule(layer))
    outputs, device = linear.out_features, linear.weight.device
    width = linear.in_features + (linear.bias is not None)
    shape = (outputs,) if likelihood.independent else (outputs, outputs)
    sums = torch.zeros((*shape, width, width), dtype=torch.float64, device=device)
    flat = sums.view(-1, width**2)
    log_p = torch.zeros((), dtype=torch.float64, device=device)
    step = max(1, CHUNK_BYTES // (8 * width**2))
    for x, y in batches:
        if not len(y):  # of a rank that has fewer than others
            continue
        phi, z, output = _run(network, layer, linear, x)
        log_p += likelihood(output.detach(), y.to(device)).double().sum()
        curvature = _in_z(layer, z, output, likelihood)
        for first in range(0, len(phi), step):
            rows = phi[first : first + step]
            products = (rows[:, :, None] * rows[:, None, :]).flatten(1)
            flat.addmm_(curvature[first : first + step].mT, products)
    return sums, log_p


def _run(network: Held, layer: str, linear: nn.Linear, x: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Return phi (N, F) in float64, z, and the outputs with their history from z on."""
    calls: list[tuple[Tensor, Tensor]] = []

    def cut(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        calls.append((inputs[0].detach(), output.detach().requires_grad_()))
        return calls[-1][1]

    def as_input(tensor: Tensor) -> Tensor:  # a copy: the network may write to it
        dtype = linear.weight.dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.to(linear.weight.device, dtype, copy=True)

    handle = linear.register_forward_hook(cut)
    try:
        with network.evaluating(), torch.enable_grad():
            output = only_tensor(network.module(map_tensors(as_input, x)))
    finally:
        handle.remove()
    if len(calls) != 1 or not output.requires_grad:
        raise ValueError(
            f"posterior.layer = {layer!r}: ran {len(calls)} times in a pass of the network, or its "
            "outputs do not depend on it; name the layer that gives them"
        )
    phi, z = calls[0]
    phi = phi.double().flatten(0, -2)
    if linear.bias is not None:
        phi = torch.cat([phi, phi.new_ones(len(phi), 1)], 1)
    return phi, z, output


def _in_z(layer: str, z: Tensor, output: Tensor, likelihood: Likelihood) -> Tensor:
    """Return Lambda in z: (N, O) where outputs are independent, else (N, O O)."""
    noise = uniforms(Stream(0, Purpose.LAPLACE), output.shape, device=output.device)
    signs = torch.where(noise < 0.5, -1.0, 1.0).to(output.dtype)

    def pulled(by: Tensor) -> Tensor:
        return torch.autograd.grad(output, z, by.to(output.dtype), retain_graph=True)[0]

    scale, signed = pulled(torch.ones_like(output)), pulled(signs)  # an entry of z is in one output
    good = torch.allclose(signed.abs(), scale.abs())
    if not likelihood.independent:  # and in its place
        good = z.shape == output.shape and torch.allclose(signed, scale * signs)
    if not good:
        raise ValueError(
            f"posterior.layer = {layer!r}: the network computes its outputs from those of this "
            "layer together (softmax, a norm, another layer); name the last layer, and give a loss "
            "of logits"
        )
    curvature, scale = likelihood.curvature(output.detach()), scale.double()
    if likelihood.independent:
        return (pulled(curvature).double() * scale).flatten(0, -2)
    return (curvature * scale[:, :, None] * scale[:, None, :]).flatten(1)
