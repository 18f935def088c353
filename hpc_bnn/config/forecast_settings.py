"""The section ``forecast`` of the settings: how ensembles of fields are stepped forward."""

from typing import Literal

from pydantic import Field

from hpc_bnn.config.section import Section

Redraw = Literal["never", "each_step"]


class ForecastSettings(Section):
    """Forecasts of fields, in ``evaluate`` and ``forecast``."""

    redraw: Redraw = Field(
        "never",
        description="fields: never: a member is one weight sample, kept through its forecast; "
        "each_step: its weights, or masks, are drawn anew at every lead time",
    )
