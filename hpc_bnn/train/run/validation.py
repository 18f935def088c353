"""Validation: the scores of the validation split, and what those of fields count."""

from collections.abc import Callable

from hpc_bnn.config import Settings
from hpc_bnn.data.source import Source
from hpc_bnn.losses.cell_area import cell_area
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.build import Parts
from hpc_bnn.train.score.scoring import score
from hpc_bnn.verify.tally import RegressionTally


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
        interrupt=interrupt,
    ).result()


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
