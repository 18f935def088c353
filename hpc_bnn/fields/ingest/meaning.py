"""Which variables are of an interval, such as sums, means and extremes, and no state of a time."""

from __future__ import annotations

import re

from hpc_bnn.fields import names
from hpc_bnn.fields.ingest.header import VariableHeader

STEP_TYPES = ("accum", "max", "min", "avg", "diff")
# CF: "time: mean", "area: time: maximum within days"; not "time: point", nor "area: mean".
_OVER_TIME = re.compile(
    r"\b(?:valid_)?time:\s*(?:\w+:\s*)*"
    r"(?:sum|mean|max|min|mid_range|range|median|mode|standard_deviation|variance|root_mean_square)"
)


def not_a_state(variable: VariableHeader) -> str:
    """Say why a variable cannot be a state of the atmosphere, empty if it can."""
    known = names.find(variable.name)
    step_type = variable.text("GRIB_stepType").lower()
    over_time = _OVER_TIME.search(variable.text("cell_methods").lower())
    if step_type in STEP_TYPES:
        kind = f"step type {step_type}"
    elif over_time:
        kind = f"cell_methods = '{variable.text('cell_methods')}'"
    elif known and known.accumulated:
        kind = "step type accum"
    else:
        return ""
    return f"is of an interval, not of a time ({kind}): it cannot be used as an instantaneous field"
