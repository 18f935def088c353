"""The section ``perturb`` of the settings: noise on states of fields."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from hpc_bnn.config.forecast_settings import Redraw
from hpc_bnn.config.section import Choice
from hpc_bnn.config.values import Scale


class PerturbSettings(Choice):
    """Noise on states of fields: those that members of a forecast start from, or of training."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)
    name: str = Field(description="the pattern of the noise; its options are further keys")
    scale: Annotated[float | dict[str, float], Scale] = Field(
        description="of all channels, or by channel, such as {t2m: 0.1}, others 0; in units of the "
        "standard deviation that unit names"
    )
    unit: Literal["change", "state"] = Field(
        "change", description="change: of the change over one step; state: of the state itself"
    )
    at: Literal["forecasts", "training", "both"] = Field(
        "forecasts",
        description="forecasts: members start with noise; training: inputs have it, another for "
        "each weight sample, and the change that is learned leads back to what is true; or both",
    )
    redraw: Redraw = Field(
        "never",
        description="never: the states that a forecast, or a rollout of training, starts from have "
        "noise; each_step: those of every lead time, each with noise of its own",
    )
