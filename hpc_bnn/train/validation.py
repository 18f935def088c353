"""What a validation of fields counts: points by the area of their cell, as in evaluation."""

from hpc_bnn.data.source import Source
from hpc_bnn.losses.cell_area import cell_area
from hpc_bnn.verify.tally import RegressionTally


def field_tally(source: Source) -> RegressionTally | None:
    """Return an empty tally of one step of fields, of normalised tendencies; None for other data.

    The weights do not depend on those of the loss (``area_weights``, ``channel_weights``), so that
    runs on one data set can be compared; points that never have a value do not count.
    """
    fields = source.fields
    if fields is None:
        return None
    weights = cell_area(fields.latitude)[:, None].expand(source.output_shape)
    return RegressionTally(weights=weights if fields.present is None else weights * fields.present)
