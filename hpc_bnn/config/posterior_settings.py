"""The section ``posterior`` of the settings."""

import logging

from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from hpc_bnn.config.section import Choice

log = logging.getLogger(__name__)


class PosteriorSettings(Choice):
    """The distribution of the weights."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)
    name: str = Field("gaussian", description="the method; its options are further keys")
    samples: PositiveInt = Field(8, description="K, weight samples per step over the whole grid")
    samples_per_pass: PositiveInt = Field(
        1, description="samples in one forward pass by vmap; 1 keeps memory at one network"
    )
    keep_graphs: bool = Field(
        False,
        description="joint losses: hold the graphs of all own samples instead of running each "
        "twice: faster, memory of all own samples",
    )
    kl_weight: NonNegativeFloat = Field(1.0, description="factor of the KL in the objective")
    kl_warmup_steps: NonNegativeInt = Field(0, description="steps over which the KL is faded in")
    predict_samples: PositiveInt = Field(64, description="weight samples of a prediction")

    @model_validator(mode="before")
    @classmethod
    def _old_name(cls, content: object) -> object:
        """Read ``method``, the word of version 0.1 for ``name``."""
        if not isinstance(content, dict) or "method" not in content:
            return content
        method = content["method"]
        if content.get("name", method) != method:
            raise ValueError(
                f"name = {content['name']!r} and method = {method!r}: method is what version 0.1 "
                "called name; leave it out"
            )
        log.info("posterior.method is called posterior.name now; both are read")
        return {key: value for key, value in content.items() if key != "method"} | {"name": method}
