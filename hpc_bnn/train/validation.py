"""What a validation of fields counts: points by the area of their cell, as in evaluation."""

from hpc_bnn.data.source import Source
from hpc_bnn.losses.cell_area import cell_area
from hpc_bnn.verify.tally import RegressionTally


def field_tally(source: Source) -> RegressionTally | None:
    """Return an empty tally of one step of fields, of normalised tendencies; None for other data.

    Each channel counts alike, whatever its weight in the loss, and so does every run of a data set,
    whether its loss weighs by area or not; points that never have a value do not count.
    """
    fields = source.fields
    if fields is None:
        return None
    weights = cell_area(fields.latitude)[:, None].expand(source.output_shape)
    return RegressionTally(weights=weights if fields.present is None else weights * fields.present)
