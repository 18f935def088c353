"""Validation: the scores of the validation split, what those of fields count, and what a method
says of itself.
"""

from collections.abc import Callable

import torch

from hpc_bnn.bayes.inputs import Inputs
from hpc_bnn.bayes.noise import Purpose
from hpc_bnn.config import Settings
from hpc_bnn.data.source import Source
from hpc_bnn.losses.cell_area import cell_area
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.build import Parts
from hpc_bnn.train.score.scoring import as_input, score
from hpc_bnn.train.step.input_noise import InputNoise
from hpc_bnn.verify.tally import RegressionTally

FEW = 4  # examples by which a method may judge its weight samples


def diagnose(world: World, parts: Parts) -> dict[str, object]:
    """Collective over the world: return what the posterior says of its weight samples, judged by
    the first examples of the validation split where it asks for any.
    """
    examples = parts.source.validation

    def read() -> Inputs:
        x, _ = examples.batch(torch.arange(min(FEW, len(examples))))
        return as_input(parts.posterior, x, world.device)

    def inputs() -> Inputs:
        return world.all_ranks.together(read, name="examples for diagnostics")

    return parts.posterior.diagnostics(inputs, world.sample_axis)


def validate(
    settings: Settings, world: World, parts: Parts, *, interrupt: Callable[[], None]
) -> dict[str, float]:
    """Collective over the world: return the scores of the validation split.

    interrupt: called by every rank between two batches; what it raises ends the validation.
    """
    source = parts.source
    return score(
        parts.posterior,
        parts.loss,
        source.validation,
        world,
        task=source.task,
        output_shape=source.output_shape,
        scale=source.scale,
        samples=settings.posterior.samples,
        batch_size=settings.train.batch_size,
        tally=field_tally(source),
        noise=_noise(parts),
        interrupt=interrupt,
    ).result()


def _noise(parts: Parts) -> InputNoise | None:
    """Return the noise on states that forecasts have, for the single steps of a validation."""
    made, fields = parts.perturbation, parts.source.fields
    if made is None or fields is None:
        return None
    return InputNoise(made, fields, purpose=Purpose.PERTURBED_VALIDATION)


def field_tally(source: Source) -> RegressionTally | None:
    """Return an empty tally of one step of fields, of normalised tendencies, points by the area of
    their cell as in evaluation; None for other data.

    The weights do not depend on those of the loss (``area_weights``, ``channel_weights``), so that
    runs on one data set can be compared; points that never have a value do not count.
    """
    fields = source.fields
    if fields is None:
        return None
    weights = cell_area(fields.latitude)[:, None].expand(source.output_shape)
    return RegressionTally(weights=weights if fields.present is None else weights * fields.present)
