"""A loss whose targets are other ones for each weight sample.

Letters: K weight samples, B batch.
"""

from torch import Tensor

from hpc_bnn.losses.base import SeparableLoss
from hpc_bnn.losses.each_example import require_apart


class MemberTargets(SeparableLoss):
    """``loss`` of each weight sample on the targets of its own, given as (B, K, ...).

    Raises
    ------
    TypeError
        If ``loss`` is joint: what joins the samples has one target.
    """

    def __init__(self, loss: SeparableLoss) -> None:
        super().__init__()
        if not isinstance(loss, SeparableLoss):
            raise TypeError(
                f"member_targets: {type(loss).__name__} joins the weight samples and has one "
                "target for all; give a separable loss, such as gaussian_nll(sigma=...)"
            )
        self.loss = loss

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the loss (B,) of one sample's ``output`` and its own ``target``, both (B, ...)."""
        require_apart(self.loss, lambda o, t: self.loss(o[0], t), output[None], target)
        value: Tensor = self.loss(output, target)
        return value

    def target_of(self, target: Tensor, sample: int) -> Tensor:
        """Return the targets (B, ...) of a weight sample among those of all, (B, K, ...)."""
        if target.dim() < 2 or sample >= target.shape[1]:
            raise ValueError(
                f"member_targets: targets {tuple(target.shape)} have none for the weight sample "
                f"{sample}; expected (B, K, ...), such as perturbed_targets(y, ...) gives"
            )
        return target[:, sample]

    def output_shape(self, target_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return what the network must give for targets (...) of one sample."""
        return self.loss.output_shape(target_shape)

    def forecast(self, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what the outputs (S, B, ...) forecast."""
        return self.loss.forecast(outputs)

    def rescale(self, output: Tensor, location: Tensor, scale: Tensor) -> Tensor:
        """Return the output (B, ...) of one sample in other units."""
        return self.loss.rescale(output, location, scale)

    def check_target(self, target: Tensor) -> None:
        """Raise ValueError for a target of which no loss can be finite."""
        for each in target.unbind(1):
            self.loss.check_target(each)


def member_targets(loss: SeparableLoss) -> MemberTargets:
    """Return a separable ``loss`` that takes targets (B, K, ...), one for each weight sample, as
    ``hb.perturbed_targets`` makes them.
    """
    return MemberTargets(loss)
